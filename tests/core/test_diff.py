"""What changed between two runs, and why."""

import io
import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from command import ml_energy
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.record.load import encode_record
from ml_energy_callbacks.record.schema import DeviceRecord, PhaseRecord, StageRecord
from ml_energy_callbacks.report.diff import Change, Part, RunDiff, diff_runs
from ml_energy_callbacks.report.diff_table import render_diff

ODD = "<script>alert(1)</script>\x1b[31m"


def a_phase(joules: float | None, seconds: float | None, doubt: float = 0.0) -> PhaseRecord:
    if joules is None:
        return PhaseRecord(joules=None, seconds=seconds, relative_uncertainty=None)
    return PhaseRecord(
        joules=joules,
        seconds=seconds,
        relative_uncertainty=doubt,
        low_joules=joules * (1 - doubt),
        high_joules=joules * (1 + doubt),
    )


def a_stage(samples: int | None, doubt: float = 0.1, **phases: PhaseRecord) -> StageRecord:
    """Return a stage whose energy and time are those of its phases."""
    joules = [phase.joules for phase in phases.values()]
    return StageRecord(
        joules=None if None in joules else math.fsum(each or 0.0 for each in joules),
        seconds=math.fsum(phase.seconds or 0.0 for phase in phases.values()),
        batches=1,
        samples=samples,
        joules_per_sample=None,
        mean_watts=None,
        relative_uncertainty=doubt,
        provenance="measured",
        phases=phases,
        devices={},
        co2e_grams=None,
        cost=None,
    )


Make = Callable[..., RunRecord]


@pytest.fixture
def a_run(empty: RunRecord) -> Make:
    def make(device: str = "nvml:a", *, modelled: bool = False, **stages: StageRecord) -> RunRecord:
        record = deepcopy(empty)
        record.stages = stages
        joules = [stage.joules for stage in stages.values()]
        record.total = replace(
            record.total,
            joules=None if None in joules else math.fsum(each or 0.0 for each in joules),
            seconds=math.fsum(stage.seconds for stage in stages.values()),
            relative_uncertainty=0.1,
        )
        record.devices = [
            DeviceRecord(
                id=device,
                name="H100",
                kind="gpu",
                backend="nvml",
                method="model" if modelled else "energy_counter",
                provenance="estimated" if modelled else "measured",
                relative_uncertainty=0.1,
                update_period_s=None,
                joules=1.0,
                missing_s=0.0,
            )
        ]
        return record

    return make


@pytest.mark.parametrize(
    ("missing", "watts", "verdict"),
    [("A", 1.0, "less"), ("A", 100.0, "undecided"), ("A", 10.0, "undecided"), ("B", 1.0, "undecided"), ("B", 100.0, "more")],
)
def test_energy_that_is_missing_decides_nothing(a_run: Make, missing: str, watts: float, verdict: str) -> None:
    a, b = (a_run(train=a_stage(100, compute=a_phase(10 * power, 10.0))) for power in (10.0, watts))
    lacking = a if missing == "A" else b
    lacking.total = replace(lacking.total, lower_bound=True)
    diff = diff_runs(a, b)
    assert diff.lower_bounds == [missing]
    assert {find(diff, None).difference.verdict, find(diff, "train", "compute").power.verdict} == {verdict}  # type: ignore[union-attr]
    console = Console(width=80, file=io.StringIO())
    console.print(render_diff(diff))
    assert f"{missing}  ≥" in console.file.getvalue()  # type: ignore[attr-defined]


def find(diff: RunDiff, stage: str | None, phase: str | None = None) -> Part:
    return next(part for part in [*diff.parts, diff.total] if (part.stage, part.phase) == (stage, phase))


def joules(change: Change | None) -> float | None:
    return None if change is None else change.joules


def causes(part: Part) -> list[float | None]:
    return [joules(part.samples), joules(part.time), joules(part.power)]


@pytest.mark.parametrize(
    ("samples", "seconds", "watts", "expected"),
    [
        (200, 20.0, 10.0, [100.0, 0.0, 0.0]),
        (100, 20.0, 10.0, [0.0, 100.0, 0.0]),
        (100, 10.0, 20.0, [0.0, 0.0, 100.0]),
        (200, 20.0, 5.0, [75.0, 0.0, -75.0]),
    ],
)
def test_each_cause_gets_its_own_part(a_run: Make, samples: int, seconds: float, watts: float, expected: list[float]) -> None:
    a = a_run(train=a_stage(100, compute=a_phase(100.0, 10.0)))
    b = a_run(train=a_stage(samples, compute=a_phase(seconds * watts, seconds)))
    for part in (find(diff_runs(a, b), "train", "compute"), find(diff_runs(a, b), "train"), diff_runs(a, b).total):
        assert causes(part) == pytest.approx(expected)


Amounts = st.floats(0, 1e6)


@st.composite
def stages(draw: st.DrawFn) -> dict[str, StageRecord]:
    """Return stages that may be absent, without samples, and with phases of no time or unknown energy."""
    found = {}
    for name in draw(st.lists(st.sampled_from(["train", "validate", "other"]), unique=True)):
        phases = {}
        for phase in draw(st.lists(st.sampled_from(["compute", "data_wait", "other"]), unique=True)):
            seconds = draw(st.just(0.0) | st.floats(1e-3, 1e5))
            energy = draw(st.none() | Amounts) if seconds else 0.0
            phases[phase] = a_phase(energy, seconds, draw(st.floats(0, 1)))
        stage = a_stage(draw(st.none() | st.integers(0, 10**6)), draw(st.floats(0, 1)), **phases)
        if stage.seconds and draw(st.booleans()):
            stage.joules = draw(Amounts)  # as where its phases cannot be separated
        found[name] = stage
    return found


def test_the_parts_add_up_to_the_difference(a_run: Make, *, full: bool) -> None:
    def check(first: dict[str, StageRecord], second: dict[str, StageRecord]) -> None:
        diff = diff_runs(a_run(**first), a_run(**second))
        for part in [*diff.parts, diff.total]:
            if part.difference is not None and part.difference.joules is not None:
                change = part.difference
                assert change.low_joules <= change.joules <= change.high_joules
                assert change.joules == pytest.approx((part.b_joules or 0) - (part.a_joules or 0), rel=1e-9, abs=1e-6)
            consistent = part.phase is not None or part.stage is None or _adds_up(diff, part)
            if part.time is not None and part.difference is not None and consistent and part.stage is not None:
                found = [each or 0.0 for each in causes(part)]
                # Causes that are larger than the difference by far cancel each other out but for their rounding.
                rounding = 1e-6 + 1e-12 * max(map(abs, found))
                assert math.fsum(found) == pytest.approx(joules(part.difference), rel=1e-9, abs=rounding)

    settings(max_examples=300 if full else 60, deadline=None)(given(stages(), stages())(check))()


def _adds_up(diff: RunDiff, part: Part) -> bool:
    """Return whether the phases of a stage make its energy, as they do in a record whose phases are all known."""
    phases = [each for each in diff.parts if each.stage == part.stage and each.phase is not None]
    return not phases or all(
        None not in (values := [getattr(phase, side) for phase in phases])
        and math.fsum(values) == pytest.approx(getattr(part, side), rel=1e-9, abs=1e-6)
        for side in ("a_joules", "b_joules")
    )


def test_stages_add_up_to_the_run_and_phases_to_the_stage(a_run: Make) -> None:
    a = a_run(
        train=a_stage(100, compute=a_phase(90.0, 9.0), data_wait=a_phase(10.0, 2.0)),
        validate=a_stage(10, compute=a_phase(5.0, 1.0)),
    )
    b = a_run(
        train=a_stage(150, compute=a_phase(200.0, 12.0), data_wait=a_phase(4.0, 1.0)),
        test=a_stage(5, compute=a_phase(7.0, 1.0)),
    )
    diff = diff_runs(a, b)
    for i in range(3):
        phases = [causes(find(diff, "train", phase))[i] or 0.0 for phase in ("compute", "data_wait")]
        assert causes(find(diff, "train"))[i] == pytest.approx(sum(phases))
        wholes = [causes(find(diff, stage))[i] or 0.0 for stage in ("train", "validate", "test")]
        assert causes(diff.total)[i] == pytest.approx(sum(wholes))
    assert causes(find(diff, "validate")) == pytest.approx([-5.0, 0.0, 0.0])  # B has none of its samples
    assert joules(diff.total.difference) == pytest.approx(211 - 105)
    assert sum(each or 0.0 for each in causes(diff.total)) == pytest.approx(106)


@pytest.mark.parametrize(
    ("a_watts", "b_watts", "doubt", "verdict"),
    [
        (10.0, 12.0, 0.01, "more"),
        (12.0, 10.0, 0.01, "less"),
        (10.0, 10.0, 0.01, "no difference"),
        (10.0, 10.5, 0.3, "undecided"),
    ],
)
def test_verdicts_follow_the_intervals(a_run: Make, a_watts: float, b_watts: float, doubt: float, verdict: str) -> None:
    a, b = (
        a_run(train=a_stage(100, compute=a_phase(watts * 10, 10.0, doubt), data_wait=a_phase(1.0, 1.0)))
        for watts in (a_watts, b_watts)
    )
    part = find(diff_runs(a, b), "train", "compute")
    assert part.power is not None
    assert part.difference is not None
    assert (part.power.verdict, part.difference.verdict) == (verdict, verdict)
    assert part.samples is not None
    assert part.samples.verdict == "no difference"


def test_devices_errors_cancel_on_the_same_devices_only(a_run: Make) -> None:
    def verdict(device: str) -> str:
        a = a_run(train=a_stage(100, compute=a_phase(100.0, 10.0)))
        b = a_run(device, train=a_stage(100, compute=a_phase(108.0, 10.0)))
        diff = diff_runs(a, b)
        assert diff.same_devices == (device == "nvml:a")
        assert diff.total.difference is not None
        return diff.total.difference.verdict

    assert verdict("nvml:a") == "more"
    assert verdict("nvml:b") == "undecided"


def test_a_model_does_not_decide_whether_power_changed(a_run: Make) -> None:
    a = a_run(modelled=True, train=a_stage(100, compute=a_phase(100.0, 10.0)))
    b = a_run(modelled=True, train=a_stage(200, compute=a_phase(240.0, 20.0)))
    part = find(diff_runs(a, b), "train")
    assert part.power is not None
    assert part.samples is not None
    assert (part.power.verdict, part.samples.verdict) == ("undecided", "more")


def test_what_is_unknown_stays_unknown(a_run: Make) -> None:
    a = a_run(train=a_stage(100, compute=a_phase(100.0, 10.0), data_wait=a_phase(10.0, 1.0)))
    b = a_run(train=a_stage(100, compute=a_phase(None, 10.0), data_wait=a_phase(None, 1.0)))
    diff = diff_runs(a, b)
    assert (diff.total.difference, find(diff, "train").difference, find(diff, "train", "compute").difference) == (None,) * 3
    b.stages["train"].joules, b.total.joules = 140.0, 140.0
    b.stages["train"].phases["compute"].low_joules, b.stages["train"].phases["compute"].high_joules = 120.0, 140.0
    diff = diff_runs(a, b)
    assert causes(find(diff, "train")) == pytest.approx([0.0, 0.0, 30.0])
    bounded = find(diff, "train", "compute")
    assert bounded.b_joules is None
    assert bounded.difference is not None
    assert bounded.difference.joules is None
    assert (bounded.difference.low_joules, bounded.difference.high_joules) == pytest.approx((120 * 0.9 - 110, 140 * 1.1 - 90))
    assert bounded.difference.verdict == "undecided"


def test_without_samples_their_number_is_part_of_time(a_run: Make) -> None:
    a = a_run(train=a_stage(None, compute=a_phase(100.0, 10.0)))
    b = a_run(train=a_stage(100, compute=a_phase(200.0, 20.0)))
    assert causes(find(diff_runs(a, b), "train")) == [None, pytest.approx(100.0), pytest.approx(0.0)]


def write(folder: Path, record: RunRecord) -> Path:
    folder.mkdir()
    (folder / "energy.json").write_bytes(encode_record(record))
    return folder


@pytest.fixture
def pair(a_run: Make, tmp_path: Path) -> tuple[Path, Path]:
    a = a_run(train=a_stage(100, compute=a_phase(1000.0, 10.0), data_wait=a_phase(100.0, 2.0)))
    b = a_run(train=a_stage(150, compute=a_phase(1800.0, 15.0), data_wait=a_phase(90.0, 2.0)))
    a.run = replace(a.run, model=ODD)
    b.run = replace(b.run, model="Net", tags={"[bold]": ODD})
    return write(tmp_path / "a", a), write(tmp_path / "b", b)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_command_says_what_changed_and_why(pair: tuple[Path, Path], columns: int) -> None:
    done = ml_energy("diff", *pair, columns=columns)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "B used 72 % more energy than A: +790 J (+711 J to +869 J)." in text
    assert "Largest cause: the number of samples of train compute" in text
    assert "model: A <script>alert(1)</script>\\x1b[31m; B Net" in text.replace("</script> ", "</script>")
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= columns
    assert "+0.790" in text


def test_the_command_prints_facts(pair: tuple[Path, Path]) -> None:
    facts: dict[str, Any] = json.loads(ml_energy("diff", *pair, "--json").stdout)
    assert facts["total"]["difference"]["verdict"] == "more"
    assert [(part["stage"], part["phase"]) for part in facts["parts"]] == [
        ("train", None),
        ("train", "compute"),
        ("train", "data_wait"),
    ]


def test_a_run_that_is_not_there_is_a_sentence(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = ml_energy("diff", pair[0], tmp_path / "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "There is no run record at" in done.stderr


def test_a_run_is_no_different_from_itself(pair: tuple[Path, Path]) -> None:
    """Nor are its phases, whose errors are the same in both."""
    assert "No difference: 0 J (0 J to 0 J)." in ml_energy("diff", pair[0], pair[0]).stdout
    facts = json.loads(ml_energy("diff", pair[0], pair[0], "--json").stdout)
    assert {part["difference"]["verdict"] for part in facts["parts"]} == {"no difference"}
    assert len(facts["parts"]) > 1
