"""Damaged records and odd options: the outcome is a result or one sentence, never a traceback."""

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, ml_energy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loads import steady

from ml_energy_callbacks import EnergyMeter, load_record
from ml_energy_callbacks.control import Budget, GainRule
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.frameworks.options import CallbackOptions
from ml_energy_callbacks.inference import compare_models, profile_inference

ODD: tuple[Any, ...] = (
    None, True, False, "", "x", "\0", "\x1b[2J", "0.1", "auto", 0, -1, 2.5, 1e308, -1e308, 10**30, [], [1], {}, {"a": 1}, [[]],
)  # fmt: skip
PAIR = ("--per-day", "10", "--days", "30")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("report", "x"),
    ("report", "x", "--json"),
    ("report", "x", "whole", "--by", "month", "--by", "model"),
    ("report", "x", "whole", "--csv", "runs.csv"),
    ("lifecycle", "--train", "x", "--predict", "whole", *PAIR),
    ("lifecycle", "--train", "whole", "--predict", "x", *PAIR),
    ("export", "x", "--format", "codecarbon-csv"),
    ("export", "x", "--format", "model-card"),
    ("export", "x", "--format", "sci-json"),
    ("merge", "ranks"),
)
RECORD = "energy.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole record of a job, with forecast, changing intensity and a share of the process."""
    path = tmp_path_factory.mktemp("fuzz")
    meter = EnergyMeter(
        backends=[steady(100.0)],
        location="FRA",
        electricity_price=0.3,
        scope="process",
        output_dir=path / "whole",
        verbose=False,
    )
    with meter, meter.stage("predict"), meter.batch(samples=8):
        sum(range(300_000))
    record = json.loads((path / "whole" / RECORD).read_text())
    (device, *_) = [device["id"] for device in record["devices"]]
    rank = {"rank": 0, "node": 0, "status": "completed", "seconds": 1.0, "batches": 1, "samples": 8, "devices": [device]}
    rank |= {"joules": 1.0, "compute_seconds": 1.0, "data_wait_seconds": 0.0, "barrier_seconds": 0.0, "barrier_joules": None}
    began, ended = record["run"]["started_at"], record["run"]["ended_at"]
    record["ranks"] = [rank, rank | {"rank": 1}]
    record["nodes"] = [{"hostname": "a", "ranks": [0, 1], "devices": [device], "joules": 1.0}]
    record["carbon"]["intervals"] = [
        {"began": began, "ended": ended, "joules": 1.0, "intensity_g_per_kwh": 50.0, "source": "x", "fallback": None}
    ]
    (path / "whole" / RECORD).write_text(json.dumps(record))
    assert load_record(path / "whole").ranks
    for name in ("x", "ranks"):
        (path / name).mkdir()
    return path


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in JSON."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for name, child in children for found in nodes(child, (*path, name)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return JSON with one value replaced."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@st.composite
def damaged(draw: Callable[..., Any], record: dict[str, Any]) -> bytes:
    """Draw a record with some damage."""
    kind = draw(st.sampled_from(["value", "values", "number", "bytes", "cut", "nested"]))
    if kind in {"value", "values", "number"}:
        for _ in range(3 if kind == "values" else 1):
            paths = nodes(record)
            path = draw(st.sampled_from(paths))
            record = replaced(record, path, draw(st.floats(0, 1e6) if kind == "number" else st.sampled_from(ODD)))
            if not isinstance(record, dict):
                break
        return json.dumps(record).encode()
    data = bytearray(json.dumps(record).encode())
    if kind == "cut":
        return bytes(data[: draw(st.integers(0, len(data)))])
    if kind == "nested":
        depth = draw(st.sampled_from([100, 3000, 100_000]))
        return bytes(data[:-1]) + b', "news": ' + b"[" * depth + b"]" * depth + b"}"
    for _ in range(draw(st.integers(1, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def check_commands(folder: Path, data: bytes, commands: tuple[tuple[str, ...], ...]) -> None:
    """Run commands on a record; an exception that they do not handle is raised here."""
    whole = json.loads((folder / "whole" / RECORD).read_text())
    (folder / "x" / RECORD).write_bytes(data)
    for file in (folder / "ranks").iterdir():
        file.unlink()
    (folder / "ranks" / "energy.rank0.json").write_bytes(with_part(data))
    part = {"rank": 1, "host": "h", "hostname": "h", "uses": []}
    (folder / "ranks" / "energy.rank1.json").write_text(json.dumps(whole | {"part": part, "ranks": [], "nodes": []}))
    for command in commands:
        ended = ml_energy(*command, folder=folder)
        assert ended.returncode in {0, 2}, (command, ended)
        if ended.returncode == 2:
            assert ended.stderr.startswith("ml-energy: "), (command, ended)
            assert ended.stderr.count("\n") == 1, (command, ended)


def with_part(data: bytes) -> bytes:
    """Return the record of one process; what is no JSON stays as it is."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return data
    part = {"rank": 0, "host": "h", "hostname": "h", "uses": []}
    return json.dumps({"part": part} | found | {"ranks": [], "nodes": []}).encode() if isinstance(found, dict) else data


def test_a_damaged_record_is_a_result_or_one_sentence(folder: Path, *, full: bool) -> None:
    record = json.loads((folder / "whole" / RECORD).read_text())

    @settings(max_examples=2000 if full else 15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=damaged(record), first=st.integers(0, len(COMMANDS) - 1))
    def check(data: bytes, first: int) -> None:
        check_commands(folder, data, COMMANDS if full else (COMMANDS[first], COMMANDS[first - 1]))

    check()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("run", "ended_at"), "yesterday"),
        (("run", "started_at"), "2026-01-01"),
        (("run", "id"), "../../../etc"),
        (("carbon", "intervals", 0, "began"), "then"),
        (("stages", "predict", "devices"), {"nobody": 1.0}),
        (("ranks", 1, "node"), 7),
        (("ranks", 0, "node"), -1),
    ],
)
def test_a_record_with_a_false_date_or_reference_is_refused(folder: Path, path: tuple[Any, ...], value: object) -> None:
    record = replaced(json.loads((folder / "whole" / RECORD).read_text()), path, value)
    (folder / "x" / RECORD).write_text(json.dumps(record))
    with pytest.raises(RecordError, match=r"^\S+ is not a complete run record: .*\.$"):
        load_record(folder / "x")
    check_commands(folder, json.dumps(record).encode(), COMMANDS)


@pytest.mark.parametrize(
    "data", [b'{"schema_version": 1, "x": "\xff"}', b"[" * 100_000, b'{"a":' * 100_000, b"\0", b"\xef\xbb\xbf{}"]
)
def test_bytes_that_are_no_json_are_refused(folder: Path, data: bytes) -> None:
    check_commands(folder, data, COMMANDS)
    with pytest.raises(RecordError, match=r"is not a (complete )?run record"):
        load_record(folder / "x")


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError


OPTIONS = (
    "devices", "sample_interval", "location", "carbon_intensity", "electricity_price", "currency", "pue", "wue", "embodied_kg",
    "lifetime_years", "offset_grams", "output_dir", "recording", "raw_readings", "verbose", "scope", "idle_seconds", "tags",
    "backends", "batch_size_fn", "count_fn", "log_every_n_steps", "layers_every_n_steps", "metrics",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *ODD, b"x", b"\0", float("nan"), float("inf"), float("-inf"), -(10**400), 10**400, object(), Odd(), Odd, (1, 2), {1: 2},
    {"06:00": "x"}, {"25:00": 1}, {"": ""}, range(3), 1j, print, Path("\0"), "x" * 5000, "2026", {"a": "b"}, ["\0"], [None],
    frozenset("a"),
)  # fmt: skip
SLOW = {"backends": (None,), "idle_seconds": (0.1, 2.5), "location": ("auto",)}
"""They look at the machine, wait, or ask a service."""


def refusal(name: str, value: object) -> str:
    """Use an option, and return why it is refused; any other error is raised."""
    options = {"backends": [], "verbose": False, name: value}
    of_callbacks = ("batch_size_fn", "count_fn", "log_every_n_steps", "layers_every_n_steps", "metrics")
    own = {name: options.pop(name) for name in of_callbacks if name in options}
    try:
        CallbackOptions(**options, **own)  # type: ignore[arg-type]
        with EnergyMeter(**options):  # type: ignore[arg-type]
            pass
    except ConfigurationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", OPTIONS)
def test_an_odd_option_works_or_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in VALUES:
        if not any(value is slow or value == slow for slow in SLOW.get(name, ())):
            text = refusal(name, value)
            assert "\n" not in text
            assert len(text) <= 1000


def predict(batch: Any) -> Any:
    return batch


def accuracy(outputs: Any, targets: Any) -> float:
    return float(outputs == targets)


BRIEF = {"max_seconds": 1e-9, "backends": []}
CONTROLS: tuple[tuple[Callable[..., Any], dict[str, Any], tuple[str, ...]], ...] = (
    (partial(Budget, "EnergyBudget"), {"kwh": 1}, ("kwh", "co2e_grams", "cost", "action")),
    (
        partial(GainRule, "EnergyEarlyStopping"),
        {"monitor": "loss", "min_gain_per_kwh": 1, "patience": 3, "mode": "min"},
        ("monitor", "min_gain_per_kwh", "patience", "mode"),
    ),
    (
        partial(profile_inference, predict, range),
        BRIEF | {"batch_sizes": [1]},
        ("batch_sizes", "relative_width", "max_seconds", "latency_limit", "devices"),
    ),
    (
        partial(compare_models, {"a": predict, "b": predict}, [(1, 1)], accuracy),
        BRIEF,
        ("relative_width", "max_seconds", "devices"),
    ),
)


@pytest.mark.parametrize(
    ("make", "usual", "name"),
    [pytest.param(make, usual, name, id=f"{make.func.__name__} {name}") for make, usual, names in CONTROLS for name in names],
)
def test_an_odd_limit_works_or_is_one_sentence(make: Callable[..., Any], usual: dict[str, Any], name: str) -> None:
    for value in VALUES:
        if name == "max_seconds" and type(value) in {int, float} and value > 0:
            continue  # it takes that long
        text = ""
        try:
            make(**usual | {name: value})
        except ConfigurationError as error:
            text = str(error)
        assert "\n" not in text
        assert len(text) <= 1000


@pytest.mark.parametrize(
    "option",
    [
        {"sample_interval": "0.1"}, {"devices": True}, {"output_dir": "\0"}, {"verbose": "no"}, {"idle_seconds": 1e308},
        {"currency": float("nan")}, {"pue": 1e308}, {"carbon_intensity": 1e308}, {"electricity_price": 1e308}, {"scope": []},
        {"backends": 5},
    ],
)  # fmt: skip
def test_an_option_of_a_wrong_type_is_refused(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ConfigurationError, match=rf"^{name} "):
        EnergyMeter(**({"backends": []} | option))


FULL = pytest.mark.full


@pytest.mark.parametrize(
    "command",
    [
        ("report", "x"),
        ("export", "x", "--format", "model-card"),
        ("--version",),
        *(pytest.param(command, marks=FULL) for command in COMMANDS[1:-1]),
        pytest.param(("when", "--series", "day.csv"), marks=FULL),
        pytest.param(("doctor",), marks=FULL),
        pytest.param(("--help",), marks=FULL),
    ],
    ids=" ".join,
)
def test_a_full_disk_as_output_is_one_sentence(folder: Path, command: tuple[str, ...]) -> None:
    (folder / "x" / RECORD).write_bytes((folder / "whole" / RECORD).read_bytes())
    (folder / "day.csv").write_text("time,g_per_kwh\n2020-01-01T00:00Z,10\n2050-01-01T00:00Z,20\n")
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [*COMMAND, *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=folder, timeout=120
        )
    sentence = "The output cannot be written: No space left on device; direct it to a file on a disk with free space."
    assert (ended.returncode, ended.stderr.endswith(f"ml-energy: {sentence}\n")) == (2, True), ended.stderr
    assert "Traceback" not in ended.stderr


C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE], ids=["asked for", "locale C"])
def test_an_output_of_ascii_shows_every_result(folder: Path, environment: dict[str, str], *, full: bool) -> None:
    record = json.loads((folder / "whole" / RECORD).read_text())
    record["run"]["model"] = record["run"]["hostnames"][0] = record["devices"][0]["name"] = "Übung \U0001f600"
    (folder / "x" / RECORD).write_text(json.dumps(record))
    for command in COMMANDS[: -1 if full else 2]:
        ended = subprocess.run(
            [*COMMAND, *command], capture_output=True, check=False, cwd=folder, timeout=120, env={**os.environ, **environment}
        )
        assert (ended.returncode, ended.stderr) == (0, b""), command
        if command == ("report", "x", "--json"):
            assert json.loads(ended.stdout)["run"]["model"] == "Übung \U0001f600"
