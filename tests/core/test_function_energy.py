"""Energy of functions: their verdicts in a simulated world, and real sessions of pytest with the plug-in."""

import json
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_energy_callbacks.exceptions import ConfigurationError, EnergyError
from ml_energy_callbacks.frameworks.measured_tests import FunctionEnergy, MeasuredTests
from ml_energy_callbacks.inference.baseline import load_baseline
from ml_energy_callbacks.inference.engine import MeterBench
from ml_energy_callbacks.inference.functions import Marks, measure_functions
from ml_energy_callbacks.inference.growth import Growth, Measurement, read_limit
from ml_energy_callbacks.inference.student import difference_between
from ml_energy_callbacks.inference.verdicts import REFERENCE, compare_two, compare_with_baseline, entry_of
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter

PARTS = {"load": (0.012, 150.0), "forward": (0.03, 380.0), "backward": (0.045, 430.0)}
"""Seconds and watts of each part of a call; the rest of it takes 10 ms with 100 W."""
CALL_J = sum(seconds * watts for seconds, watts in PARTS.values()) + 1.0
IDLE_WATTS, NOISE, WIDTH = 90.0, 0.02, 0.0075

TOO_SHORT = (
    "The time ended before ±0.75 % was reached in 8 repeats or more; raise --energy-seconds, or reduce other load on the"
    " machine."
)

PLUGIN = "ml_energy_callbacks.frameworks.pytest_plugin"


class Machine:
    """A device whose power varies from block to block, and from session to session."""

    def __init__(self, seed: int, *, level: float = 1.0, refresh_s: float = 0.1) -> None:
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.curve = PowerCurve(self.clock, IDLE_WATTS)
        self.session = self.level = level
        self.refresh_s = max(refresh_s, 0.1)
        counter = ScriptedCounter(self.curve, self.clock, period_s=refresh_s, offset_s=self.rng.random() * refresh_s)
        self.meter = SteppedMeter(self.clock, backends=[ScriptedBackend([counter])], verbose=False, carbon_intensity=0.0)
        self.marks = Marks()

    def rest(self, seconds: float) -> None:
        self.level = self.session * self.rng.gauss(1, NOISE)
        self.clock.advance(seconds)

    def work(self, seconds: float, watts: float) -> None:
        self.curve.set(watts * self.level)
        self.clock.advance(seconds * self.rng.uniform(0.97, 1.03))
        self.curve.set(IDLE_WATTS * self.session)

    def step(self, growth: float = 0.0, part: str = "forward", *, power: bool = False) -> None:
        """Do the work of a call, in which this part has grown by this share of the energy of all: by time, or by power."""
        for name, (seconds, watts) in PARTS.items():
            factor = 1 + growth * CALL_J / (seconds * watts) if name == part else 1.0
            with self.marks.part(name):
                self.work(seconds * (1 if power else factor), watts * (factor if power else 1))
        self.work(0.01, 100.0)

    def measure(self, functions: dict[str, Callable[[], object]], max_seconds: float = 120.0) -> Measurement:
        bench = MeterBench(self.meter, lambda: self.refresh_s, self.clock, self.rest)
        with self.meter:
            return measure_functions(functions, self.marks, self.meter, bench, relative_width=WIDTH, max_seconds=max_seconds)


def two(seed: int, growth: float, part: str = "forward") -> Growth:
    """Measure a function and one in which a part has grown, in turns."""
    machine = Machine(seed)
    measured = machine.measure({"before": machine.step, "after": partial(machine.step, growth, part)})
    return compare_two("test", "before", "after", measured, WIDTH)


def session(seed: int, growth: float = 0.0, part: str = "forward") -> Measurement:
    """Measure a function beside the reference, on a machine that uses more or less power than in another session."""
    machine = Machine(seed, level=random.Random(seed).uniform(0.8, 1.2))
    return machine.measure({"step": partial(machine.step, growth, part), REFERENCE: partial(machine.work, 0.02, 200.0)})


def since(seed: int, growth: float, part: str = "forward") -> Growth:
    """Measure a function in a session, and one in which a part has grown in the next."""
    now = session(2 * seed + 1, growth, part)
    return compare_with_baseline("test", "step", now, entry_of("step", session(2 * seed)), WIDTH)


@pytest.mark.statistics
@pytest.mark.parametrize("compared", [two, since])
def test_the_same_code_raises_an_alarm_in_five_percent_at_most(compared: Callable[[int, float], Growth], *, full: bool) -> None:
    runs = 500 if full else 3
    alarms = sum(compared(seed, 0.0).exceeds(0.05) for seed in range(runs))
    assert alarms <= 0.05 * runs


@pytest.mark.statistics
@pytest.mark.parametrize("compared", [two, since])
def test_five_percent_more_is_found_with_its_part(compared: Callable[..., Growth], *, full: bool) -> None:
    runs = 100 if full else 3
    parts = [("backward", "forward", "load")[seed % 3] for seed in range(runs)]
    found = [
        partial(compared, part=part)(seed, 0.05) if compared is two else compared(seed, 0.05) for seed, part in enumerate(parts)
    ]
    named = [growth.grown.name if growth.grown is not None else None for growth in found]
    right = [name == (part if compared is two else "forward") for name, part in zip(named, parts, strict=True)]
    assert sum(growth.exceeds(0.05) for growth in found) >= 0.9 * runs
    assert sum(right) >= 0.9 * runs


def test_a_part_that_only_draws_more_power_is_named_where_parts_are_known_apart() -> None:
    machine = Machine(3, refresh_s=0.02)
    measured = machine.measure({"before": machine.step, "after": partial(machine.step, 0.1, "backward", power=True)})
    found = compare_two("test", "before", "after", measured, WIDTH)
    assert found.exceeds(0.05)
    assert found.grown is not None
    assert found.grown.name == "backward"
    assert found.grown.joules == pytest.approx(0.1 * CALL_J, rel=0.3)


def test_a_function_without_parts_has_none_and_one_that_uses_less_has_no_growth() -> None:
    machine = Machine(1)
    measured = machine.measure({"long": partial(machine.work, 0.03, 300.0), "short": partial(machine.work, 0.02, 300.0)})
    found = compare_two("test", "long", "short", measured, WIDTH)
    assert (found.verdict, found.parts, found.grown) == ("less", [], None)
    assert found.relative == pytest.approx(-1 / 3, abs=0.05)
    assert found.joules == pytest.approx(6.0, rel=0.1)
    assert not found.exceeds(0.05)


def test_a_growth_below_the_limit_is_told_and_allowed() -> None:
    found = two(1, 0.05)
    assert found.verdict == "more"
    assert found.exceeds(0.05)
    assert not found.exceeds(0.2)


def test_without_time_for_repeats_it_is_undecided() -> None:
    machine = Machine(1)
    measured = machine.measure({"before": machine.step, "after": machine.step}, max_seconds=8.0)
    found = compare_two("test", "before", "after", measured, WIDTH)
    assert (found.verdict, found.repeats) == ("undecided", 2)
    assert found.joules_half_width is not None
    assert found.notes == [TOO_SHORT]


def test_a_function_that_is_too_slow_for_a_repeat_says_so() -> None:
    machine = Machine(1)
    measured = machine.measure({"slow": partial(machine.work, 30.0, 100.0)}, max_seconds=20.0)
    assert measured.joules == {"slow": {}}
    assert measured.notes == [TOO_SHORT]


def test_a_baseline_of_other_devices_decides_nothing() -> None:
    entry = entry_of("step", session(1))
    assert entry is not None
    entry.devices = ["nvml:GPU-1"]
    found = compare_with_baseline("test", "step", session(2), entry, WIDTH)
    assert (found.verdict, found.relative) == ("undecided", None)
    assert any("other devices (nvml:GPU-1)" in note for note in found.notes)


def test_an_error_of_a_function_is_told() -> None:
    machine = Machine(1)

    def fails() -> None:
        msg = "no such file"
        raise OSError(msg)

    with pytest.raises(EnergyError, match="fails cannot be measured: it raised OSError: no such file"):
        machine.measure({"fails": fails})


@pytest.mark.parametrize("name", ["", "a b", "rest", "a/b"])
def test_a_part_needs_a_plain_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="has no usable name"), Marks().part(name):
        pass


@pytest.mark.parametrize("text", ["5", "-5%", "0%", "+%", "five", "+5 percent", "nan%"])
def test_a_limit_is_a_growth_in_percent(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"write it as \+5%"):
        read_limit(text)
    assert read_limit("+5%") == read_limit(" 5 % ") == 0.05


def test_two_sessions_are_compared_by_welchs_test() -> None:
    first, second = [10.0, 10.2, 9.8, 10.1, 9.9], [10.5, 10.9, 10.7, 10.6, 10.8, 10.7]
    found = difference_between(first, second, 0.05)
    assert found is not None
    # scipy.stats.ttest_ind(second, first, equal_var=False): statistic 7.639, p 5.9e-05 with 8.1 degrees of freedom
    assert found.p_value == pytest.approx(5.9e-5, rel=0.1)
    assert found.verdict == "more"
    assert difference_between([1.0], second, 0.05) is None
    same = difference_between([1.0, 1.0], [1.0, 1.0], 0.05)
    assert same is not None
    assert (same.verdict, same.half_width) == ("no difference", 0.0)


# ------------------------------------------------------------------------------------------------- what a session keeps


def kept(**options: Any) -> MeasuredTests:
    return MeasuredTests(**{"baseline": None, "save": None, "fail_if": None, "max_seconds": 60.0} | options)


def test_a_session_saves_what_the_next_one_compares(tmp_path: Path) -> None:
    file = tmp_path / "energy.json"
    first = kept(save=file)
    found = first.add_function("test_a.py::test_step", "step", session(1))
    assert (found.verdict, found.relative) == ("undecided", None)
    first.save()
    assert load_baseline(file).tests.keys() == {"test_a.py::test_step"}
    second = kept(baseline=file, fail_if="+5%", save=tmp_path / "next.json")
    with pytest.raises(pytest.fail.Exception) as failed:
        second.add_function("test_a.py::test_step", "step", session(2, 0.1))
    assert "against baseline; the limit is 5.0 %. forward has grown most, by " in str(failed.value)
    new = second.add_function("test_a.py::test_new", "step", session(3))
    assert new.notes[-1] == "The baseline does not have it; add it with --energy-save."
    second.save()
    assert load_baseline(tmp_path / "next.json").tests.keys() == {"test_a.py::test_step", "test_a.py::test_new"}
    text = second.to_text()
    assert all(word in text for word in ("test_step", "more", "forward", "test_new", "undecided"))
    assert "against" not in text


def test_a_table_names_files_and_functions_where_they_tell_tests_apart() -> None:
    tests, measured = kept(), session(1)
    for name in ("a.py::test_x", "b.py::test_y"):
        tests.add_function(name, "step", measured)
    assert ".py" not in tests.to_text()
    tests.add_pair("c.py::test_x", "step", REFERENCE, measured)
    text = tests.to_text()
    assert all(word in text for word in ("a.py::test_x", "c.py::test_x", "against", "baseline", "step"))


def test_a_note_of_many_tests_is_told_once() -> None:
    tests, machine = kept(), Machine(1)
    measured = machine.measure({"step": machine.step, REFERENCE: partial(machine.work, 0.02, 200.0)}, max_seconds=8.0)
    for i in range(5):
        tests.add_function(f"a.py::test_{i}", "step", measured)
    text = " ".join(tests.to_text().split())
    assert text.count(TOO_SHORT) == 1
    assert f"test_0, test_1, test_2 and 2 more: {TOO_SHORT}" in text


def test_a_file_that_is_there_stays_where_nothing_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "energy.json"
    kept(save=file).save()
    assert load_baseline(file).tests == {}  # the next session may have tests that this one lacks
    file.write_text("before")
    kept(save=file).save()
    assert file.read_text() == "before"


def test_a_function_that_is_measured_cannot_measure_another() -> None:
    energy = FunctionEnergy(kept(max_seconds=2.0), "test")
    with pytest.raises(ConfigurationError, match="measure them one after the other"):
        energy(lambda: energy(sum, ()))


def test_a_function_with_the_references_name_is_measured_beside_it() -> None:
    done: set[str] = set()

    def reference() -> None:
        time.sleep(0.001)
        done.add("by the function")

    FunctionEnergy(kept(max_seconds=2.0), "test")(reference, reference=lambda: done.add("by the reference"))
    assert done == {"by the function", "by the reference"}


def test_a_test_that_measures_twice_has_two_names() -> None:
    tests, measured = kept(), session(1)
    assert [tests.add_function("test", "step", measured).name for _ in range(3)] == ["test", "test #2", "test #3"]


# ------------------------------------------------------------------------------------------------- sessions of pytest


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as users do; where the package is installed without its entry points, the plug-in is named."""
    named = [] if any(each.value == PLUGIN for each in entry_points(group="pytest11")) else ["-p", PLUGIN]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *named, *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "test_steps.py").write_text(
        """
import time

def test_step(energy):
    def step(seconds):
        with energy.part("load"):
            time.sleep(seconds)
        with energy.part("sum"):
            sum(range(20000))
    energy(step, 0.01)

def test_plain():
    assert True
"""
    )
    return tmp_path


def test_a_session_measures_and_saves(suite: Path) -> None:
    done = run_pytest(suite, "--energy-save", "energy.json", "--energy-seconds", "6")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert "test_step " in done.stdout
    saved = (suite / "energy.json").read_text()
    assert json.loads(saved)["tests"].keys() == {"test_steps.py::test_step"}
    assert run_pytest(suite, "--energy-save", "energy.json", "--collect-only").returncode == 0
    assert (suite / "energy.json").read_text() == saved


def test_an_interrupted_session_saves_nothing(suite: Path) -> None:
    (suite / "test_then.py").write_text("def test_then():\n    raise KeyboardInterrupt\n")
    done = run_pytest(suite, "--energy-save", "energy.json", "--energy-seconds", "1")
    assert done.returncode == pytest.ExitCode.INTERRUPTED
    assert "1 passed" in done.stdout or "2 passed" in done.stdout
    assert not (suite / "energy.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--energy-baseline", "none.json"),
            "none.json cannot be read (No such file or directory); write one with --energy-save.",
        ),
        (("--energy-baseline", "test_steps.py"), "test_steps.py is no baseline of energy"),
        (("--energy-fail-if", "much"), "The limit 'much' is no growth in percent; write it as +5%."),
        (("--energy-save", "none/energy.json"), "for --energy-save; create it, or give another file."),
        (("--energy-baseline", "other.json"), "other.json is no baseline of energy (Object missing required field `tests`)"),
        (("--energy-save", "."), "is a directory; give --energy-save a file."),
        (("--energy-save", "a.json", "--energy-seconds", "0"), "--energy-seconds is 0.0; give seconds above 0, such as 60."),
        (("--energy-save", "a.json", "-n", "2"), "cannot run side by side. Leave out -n, or the options of energy."),
    ],
)
def test_a_wrong_option_is_one_sentence_before_any_test(
    suite: Path,
    options: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(suite)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    Path("other.json").write_text("{}")
    assert pytest.main(["-p", PLUGIN, "-p", "xdist", *options]) == pytest.ExitCode.USAGE_ERROR
    shown = capsys.readouterr()
    assert words in shown.err
    assert "passed" not in shown.out
    assert "Traceback" not in shown.err + shown.out


def test_the_workflow_runs_what_it_says(tmp_path: Path) -> None:
    examples = Path(__file__).parents[2] / "examples" / "ci"
    (job,) = yaml.safe_load((examples / "energy.yml").read_text())["jobs"].values()
    commands = [step for step in job["steps"] if "pytest examples" in step.get("run", "")]
    assert [step["working-directory"] for step in commands] == ["before", "after"]
    for step in commands:
        folder = tmp_path / step["working-directory"]
        shutil.copytree(examples, folder / "examples" / "ci")
        _, _, _, *options = shlex.split(step["run"])
        done = run_pytest(folder, *options, "--energy-seconds", "1")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "2 passed" in done.stdout
    assert (tmp_path / "energy.json").exists()


def test_tests_that_run_side_by_side_measure_nothing(suite: Path) -> None:
    done = run_pytest(suite, "-n", "2", "-rs")
    assert done.returncode == 0
    assert "1 passed, 1 skipped" in done.stdout
    assert "Devices measure the energy of all that runs" in done.stdout


def test_who_does_not_measure_pays_nothing(suite: Path) -> None:
    (suite / "test_steps.py").write_text(
        "import sys\n\ndef test_plain():\n    assert not {'numpy', 'rich', 'msgspec'} & sys.modules.keys()\n"
    )
    assert run_pytest(suite).returncode == 0
