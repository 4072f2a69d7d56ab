"""A replay is the record of a live run: from a recording exactly, from marks and readings without any other code."""

import contextlib
import copy
import json
import math
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from command import ml_energy
from recorded import figures_of
from traces import NAMES, load_trace
from worlds import COMPUTE, KINDS, WAIT

from ml_energy_callbacks import LoopDescription, RunRecord
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.metrics import STAGES
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.record.load import decode_record, encode_record
from ml_energy_callbacks.testing import (
    ManualClock,
    PowerCurve,
    ScriptedBackend,
    ScriptedCounter,
    ScriptedPower,
    SteppedMeter,
    replay,
)
from ml_energy_callbacks.testing.replaying import replay_file

WAIT_WATTS, COMPUTE_WATTS = 90.0, 420.0

Marks = list[tuple[float, Any, Any]]
Readings = list[tuple[float, float | None]]


# ------------------------------------------------------------------------------------------------------- recorded runs


def figures(record: RunRecord) -> dict[str, Any]:
    """Return what a replay has of a record: each number and text, by where it is."""
    parts: list[tuple[str, Any]] = [("", figures_of(record))]
    found: dict[str, Any] = {}
    for path, part in parts:
        if isinstance(part, dict | list):
            parts += [(f"{path}/{key}", value) for key, value in (part.items() if isinstance(part, dict) else enumerate(part))]
        else:
            found[path] = part
    return found


def device(name: str, **facts: Any) -> Device:
    plain = Device(f"scripted:{name}", name, "gpu", "scripted", "energy_counter", "measured", 0.05)
    return replace(plain, **facts)


class CounterWithPower(ScriptedCounter):
    """A counter whose device reports its power, too."""

    def watts(self) -> float:
        return self.curve.watts(self.clock()) * 1.02


MODEL = device("model", kind="dram", method="model", update_period_s=0.0, latency_s=0.0)


class Model(ScriptedCounter):
    """A model whose uncertainty is that of the loads so far."""

    def read(self) -> float:
        joules = super().read()
        self.device = replace(self.device, relative_uncertainty=round(0.4 + 20 / joules, 2))
        return joules


class World:
    """A random machine and a random loop on it, under a manual clock."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = ManualClock(self.rng.randrange(10**12))
        self.curve = PowerCurve(self.clock, WAIT_WATTS)
        self.sources = [make(self) for make in self.rng.sample(MACHINES, self.rng.randint(1, 3))]

    def work(self, watts: float, seconds: float) -> None:
        self.curve.set(watts)
        self.clock.advance(seconds * self.rng.uniform(0.5, 1.5))

    def measure(self, path: Path | None = None, **options: Any) -> RunRecord:
        """Play one or two runs of one meter, which are recorded, and return the record."""
        rng = self.rng
        meter = SteppedMeter(
            self.clock,
            backends=[ScriptedBackend(self.sources)],
            recording=path,
            idle_seconds=rng.choice([0, 0, 1]),
            scope=rng.choice(["machine", "process"]),
            verbose=False,
            **options,
        )
        for _ in range(rng.randint(1, 2)):
            meter.start(LoopDescription(framework="loop 1.0"))
            for _ in range(rng.randint(1, 3)):
                with meter.stage(rng.choice(STAGES)):
                    self.batches(meter)
                    if rng.random() < 0.3:
                        with meter.stage("validate"):
                            self.batches(meter)
                self.work(WAIT_WATTS, 0.1)
            meter.stop(rng.choice(["completed", "failed"]), "as chance has it")
            self.work(WAIT_WATTS, 1.0)
        return meter.record

    def batches(self, meter: SteppedMeter) -> None:
        rng = self.rng
        wait, compute = rng.choice([(0.05, 0.2), (0.0002, 0.0008), (0.3, 1.0)])
        for number in range(rng.choice([1, 20])):
            self.work(WAIT_WATTS, wait)
            meter.batch_start()
            self.work(COMPUTE_WATTS, compute)
            meter.batch_end(rng.choice([8, 8, 8, None]), tokens=None if number == 13 else 64)
            if number == 3:
                meter.add_samples("train", 5)
                with meter.batch(samples=2), meter.batch(samples=3):
                    self.work(COMPUTE_WATTS, compute)
                meter.enter("compile")
                self.sources[0].failing = rng.random() < 0.2
                self.work(COMPUTE_WATTS, compute)


MACHINES: tuple[Callable[[World], Any], ...] = (
    lambda world: ScriptedCounter(world.curve, world.clock, 0.1, 0.013, device=device("gpu0")),
    lambda world: ScriptedCounter(world.curve, world.clock, 0.02, 0.0, device=device("gpu1", wrap_joules=1000.5)),
    lambda world: ScriptedCounter(world.curve, world.clock, 0.0, device=device("cpu", kind="cpu", update_period_s=0.001)),
    lambda world: ScriptedPower(world.curve, world.clock, device=device("p", method="power_integration")),
    lambda world: ScriptedPower(
        world.curve, world.clock, device=device("wall", kind="board", method="power_integration", whole_machine=True)
    ),
    lambda world: CounterWithPower(world.curve, world.clock, 0.1, 0.05, device=device("gpu2", max_watts=400.0, latency_s=0.03)),
    lambda world: Model(world.curve, world.clock, 0.0, start_joules=50.0, device=MODEL),
    lambda world: ScriptedPower(
        world.curve, world.clock, device=device("slow", method="power_integration", min_interval_s=0.4)
    ),
)


def test_the_replay_of_a_recorded_run_is_its_record(tmp_path: Path, *, full: bool) -> None:
    # In number 37 the interval in which the run begins counts: a replay has to know what was before.
    for seed in range(300) if full else (*range(8), 37):
        path = tmp_path / f"{seed}.jsonl"
        live = World(seed).measure(path)
        assert figures(replay_file(path)) == pytest.approx(figures(live), rel=1e-6, abs=1e-6)


def test_the_record_is_the_same_by_its_raw_readings(tmp_path: Path, *, full: bool) -> None:
    for seed in range(300) if full else (*range(4), 37):
        record = World(seed).measure(output_dir=tmp_path / str(seed), raw_readings=True)
        found = record.verify()
        assert found.same, found
        assert (found.largest_difference or 0.0) < 1e-14, seed  # the order of sums
        assert found.seconds == pytest.approx(record.total.seconds, rel=1e-12)


def test_the_command_prints_the_replayed_record(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    live = World(1).measure(path)
    shown, source = ml_energy("replay", path), ml_energy("replay", path, "--json")
    assert shown.returncode == source.returncode == 0
    assert "loop 1.0" in shown.stdout
    assert json.loads(source.stdout)["total"]["joules"] == live.total.joules


def test_a_recording_that_was_cut_off_is_replayed_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    live = World(2).measure(path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\n", len(data) * 2 // 3) - 5])
    record = replay_file(path)
    assert record.run.status == "stopped"
    assert record.run.reason == "The recording ends before the run does."
    assert record.warnings[-1] == NOT_COMPLETE
    assert 0 < record.total.seconds < live.total.seconds
    shown = ml_energy("replay", path)
    assert shown.returncode == 0
    assert "Stopped: The recording ends" in shown.stdout


def damaged(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> str:
    """Change the lines of a recording, and return the sentence with which the command refuses it."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = ml_energy("replay", path)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("ml-energy: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def nth(lines: list[dict[str, Any]], kind: str, number: int = 3) -> dict[str, Any]:
    return [line for line in lines if line["line"] == kind][number]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda lines: lines[0].update(format=9, package="7.1", devices={"kind": "npu"}, ns="later"),
            "has format 9, and this release reads 1; replay it with ml-energy-callbacks 7.1.",
        ),
        (lambda lines: lines.pop(0), "its first line is not the start of a run"),
        (lambda lines: lines[0].update(started_at="today"), "line 1 is damaged (the date 'today')"),
        (
            lambda lines: lines[0]["devices"].append(lines[0]["devices"][0]),
            "line 1 is damaged (the device scripted:gpu0 twice)",
        ),
        (lambda lines: lines[0]["devices"][0].update(wrap_joules=0), "a device scripted:gpu0 whose wrap_joules is 0"),
        (lambda lines: lines[0]["devices"][0].update(latency_s=-1), "a device scripted:gpu0 whose latency_s is -1"),
        (lambda lines: lines[0]["devices"][0].update(kind="fpga"), "line 1 is damaged (Invalid enum value 'fpga'"),
        (lambda lines: nth(lines, "mark").update(stage="trian"), "is damaged (the stage 'trian')"),
        (lambda lines: nth(lines, "mark").update(phase="sleep"), "is damaged (Invalid enum value 'sleep'"),
        (lambda lines: nth(lines, "mark").update(ns=5), "the times of lines run backwards"),
        (lambda lines: nth(lines, "mark").update(ns=-5), "is damaged"),
        (lambda lines: lines.__setitem__(8, lines[8] | {"ns": -5}), "line 9 is damaged (Expected `int` >= 0"),
        (lambda lines: lines.__setitem__(8, {}), "; to replay what comes before it, keep the first 8 lines."),
        (lambda lines: lines[-1].update(ns=2**62), "s after the start, which no run takes"),
        (lambda lines: nth(lines, "mark").update(kind="batches", batches=-1), "batches and "),
        (lambda lines: [nth(lines, "mark", i).update(samples=10**18) for i in (2, 3)], "samples so far, which no run has"),
        (lambda lines: nth(lines, "mark").update(samples=10**30), "is damaged"),
        (lambda lines: lines.insert(5, {"line": "idle", "ns": lines[4]["ns"], "watts": {"scripted:gpu0": -5}}), "is damaged"),
        (lambda lines: lines.insert(5, {"line": "idle", "ns": lines[4]["ns"], "watts": {"scripted:gpu0": 1e99}}), "is damaged"),
        (lambda lines: lines[0]["devices"][0].update(min_interval_s=1e300), "whose min_interval_s is 1e+300"),
        (lambda lines: lines[0]["devices"][0].update(update_period_s=1e300), "whose update_period_s is 1e+300"),
        (lambda lines: lines[0]["devices"][0].update(power_window_s=1e300), "whose power_window_s is 1e+300"),
        (lambda lines: lines[0]["devices"][0].update(latency_s=1e300), "whose latency_s is 1e+300"),
        (lambda lines: nth(lines, "mark").update(line="spark"), "is damaged (Invalid value 'spark'"),
        (lambda lines: nth(lines, "readings").update(devices={"x": [[1, 1, 1.0]]}), "readings of x, which is none of"),
        (lambda lines: nth(lines, "readings").update(devices={"scripted:gpu0": [[5, 5, 1.0]]}), "readings run backwards"),
        (lambda lines: nth(lines, "readings").update(devices={"scripted:gpu0": [[2, 1, 1.0]]}), "readings run backwards"),
        (lambda lines: nth(lines, "readings").update(devices={"scripted:gpu0": [[2, 1]]}), "is damaged"),
        (
            lambda lines: nth(lines, "readings").update(devices={"scripted:gpu0": [[2**61, 2**62, 1.0]]}),
            "a reading of scripted:gpu0 at 4611686018427387904 ns, after the time of the line",
        ),
    ],
)
def test_a_damaged_recording_is_refused_in_one_sentence(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], object], sentence: str
) -> None:
    path = record_simple(tmp_path)
    assert sentence in damaged(path, change)


def record_simple(folder: Path) -> Path:
    """Record a short loop on one GPU, and return the file."""
    world = World(0)
    world.sources = [MACHINES[0](world)]
    path = folder / "raw.jsonl"
    with (
        SteppedMeter(world.clock, backends=[ScriptedBackend(world.sources)], recording=path, verbose=False) as meter,
        meter.stage("train"),
    ):
        for _ in range(10):
            world.work(WAIT_WATTS, 0.05)
            with meter.batch(samples=4):
                world.work(COMPUTE_WATTS, 0.2)
    return path


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "its first line is not the start of a run"),
        (b"\xff\xfe", "its first line is not the start of a run"),
        (b'{"schema_version": 1}\n', "its first line is not the start of a run"),
        (b"[" * 100_000, "its first line is not the start of a run"),
    ],
)
def test_another_file_is_no_recording(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    done = ml_energy("replay", path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sentence in done.stderr
    assert "show an energy.json with ml-energy report" in done.stderr


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        done = ml_energy("replay", path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "cannot be replayed" in done.stderr


NOT_COMPLETE = "The last line of the recording is not complete and was left out."


@pytest.mark.parametrize(
    ("end", "warning"),
    [
        (b"\0" * 9000, NOT_COMPLETE),
        (b'{"line":"mark","ns\0\0\0', NOT_COMPLETE),
        (b"\0" * 5000 + b"\n", "The recording is damaged from line {number} on ("),
        (b'{"line":"mar\0\0\0\n' + b"\0" * 200_000, "The recording is damaged from line {number} on ("),
    ],
    ids=["zeros", "a part of a line and zeros", "a line of zeros", "lines of zeros"],
)
def test_a_recording_that_ends_in_damage_is_replayed_up_to_it(tmp_path: Path, end: bytes, warning: str) -> None:
    path = record_simple(tmp_path)
    whole, number = replay_file(path), path.read_bytes().count(b"\n") + 1
    with path.open("ab") as file:
        file.write(end)
    again = replay_file(path)
    assert again.total == whole.total
    assert again.warnings[-1].startswith(warning.format(number=number))


def test_a_huge_file_of_another_kind_is_refused_with_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    for begin, size in ((b"", 3 * 2**30), (record_simple(tmp_path).read_bytes(), 2**28)):
        path.write_bytes(begin)
        with path.open("ab") as file:
            file.truncate(size)
            file.write(b"}\n")
        tracemalloc.start()
        try:
            with pytest.raises(RecordError, match="cannot be replayed"):
                replay_file(path)
            assert tracemalloc.get_traced_memory()[1] < 2**27
        finally:
            tracemalloc.stop()


def test_what_is_replayed_is_a_record_that_can_be_read(tmp_path: Path, *, full: bool) -> None:
    source = [json.loads(line) for line in record_simple(tmp_path).read_text().splitlines()]
    rng = random.Random(11)
    numbers = [0, -1, 1e-300, 1e300, -1e300, 5, 10**18, 10**30, 2**62, 0.5]
    path = tmp_path / "changed.jsonl"
    read = 0
    for _ in range(3000 if full else 100):
        lines = copy.deepcopy(source)
        place: Any = rng.choice([lines[0], lines[0]["devices"][0], *lines])
        key = rng.choice([key for key, value in place.items() if not isinstance(value, str)])
        if isinstance(place[key], dict):
            place = place[key]
            key = next(iter(place))
        if isinstance(place[key], list) and place[key]:
            place, key = place[key], rng.randrange(len(place[key]))
        place[key] = rng.choice(numbers)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        with contextlib.suppress(RecordError):
            record = replay_file(path)
            assert decode_record(encode_record(record), str(path)).total == record.total
            read += 1
    assert read


def test_any_damage_is_refused_or_replayed(tmp_path: Path, *, full: bool) -> None:
    source = record_simple(tmp_path).read_bytes()
    rng = random.Random(7)
    path = tmp_path / "damaged.jsonl"
    for _ in range(2000 if full else 60):
        data = bytearray(source)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.choice([0, 1, 1, 30])] = rng.choice([b"9", b"-", b"", b'"', b"\n", b"e99", b"null"])
        path.write_bytes(data)
        with contextlib.suppress(RecordError):
            assert replay_file(path).stages.keys() <= set(STAGES)


# ------------------------------------------------------------------------------------------------ marks and readings


def loop(
    seconds: float, *, wait_s: float = 0.05, compute_s: float = 0.2, stage: str = "train", began: float = 0.0
) -> tuple[Marks, Callable[[float], float]]:
    """Return the marks of a loop, and its energy up to an instant."""
    rng = random.Random(3)
    marks: Marks = []
    times, joules = [began - 10.0, began], [-10 * WAIT_WATTS, 0.0]
    while times[-1] < began + seconds:
        for phase, length, watts in (("data_wait", wait_s, WAIT_WATTS), ("compute", compute_s, COMPUTE_WATTS)):
            marks.append((times[-1], stage, phase))
            took = length * rng.uniform(0.8, 1.2)
            times.append(times[-1] + took)
            joules.append(joules[-1] + watts * took)
    marks.append((times[-1], None, None))
    times.append(times[-1] + 10.0)
    joules.append(joules[-1] + 10 * WAIT_WATTS)
    return marks, lambda time: float(np.interp(time, times, joules))


def counter(joules: Callable[[float], float], end: float, *, began: float = 0.0, refresh_s: float = 0.1) -> Readings:
    """Return what polls see of a counter: often at first, as a meter polls it, and then every 30 to 70 ms."""
    rng = random.Random(5)
    now, seen = began - 0.5, []
    while now < end + 0.5:
        seen.append((now, joules(now // refresh_s * refresh_s)))
        now += 0.001 if now < began else rng.uniform(0.03, 0.07)
    return seen


def power(joules: Callable[[float], float], end: float, step_s: float = 0.05) -> Readings:
    times = np.arange(-0.5, end + 0.5, step_s).tolist()
    return [(time, (joules(time + 1e-3) - joules(time - 1e-3)) / 2e-3) for time in times]


def test_a_replay_of_marks_and_readings_is_a_whole_record() -> None:
    marks, joules = loop(30.0)
    end = marks[-1][0]
    ends = [(time, 32) for time, _, phase in marks[2::2]]
    record = replay(marks=marks, counters={"gpu0": counter(joules, end)}, kind="gpu", samples=ends)
    stage = record.stages["train"]
    assert record.total.joules == pytest.approx(joules(end), rel=1e-3)
    assert record.total.seconds == pytest.approx(end)
    assert (stage.batches, stage.samples) == (len(ends), 32 * len(ends))
    assert [(device.id, device.kind, device.method) for device in record.devices] == [("gpu0", "gpu", "energy_counter")]
    assert record.devices[0].update_period_s == pytest.approx(0.1, rel=1e-3)
    waited = sum(b - a for (a, _, phase), (b, _, _) in pairwise(marks) if phase == "data_wait")
    assert stage.phases["data_wait"].seconds == pytest.approx(waited)
    assert record.run.hostnames == []


def test_counters_and_powers_add_up_to_the_stages() -> None:
    marks, joules = loop(20.0)
    validation, _ = loop(5.0, stage="validate", began=marks[-1][0])
    end = validation[-1][0]
    record = replay(
        [*marks[:-1], *validation],
        {"a": counter(joules, end), "b": counter(lambda time: 3 * joules(time), end)},
        {"c": power(joules, end)},
    )
    parts = [device.joules for device in record.devices]
    assert record.total.joules == pytest.approx(sum(part for part in parts if part is not None))
    assert record.total.joules == pytest.approx(sum(stage.joules or 0 for stage in record.stages.values()))
    assert parts[1] == pytest.approx(3 * (parts[0] or 0), rel=1e-6)
    for stage in record.stages.values():
        assert stage.joules == pytest.approx(sum(stage.devices.values()))
        assert stage.seconds == pytest.approx(sum(phase.seconds for phase in stage.phases.values()))
        known = [phase.joules for phase in stage.phases.values()]
        assert None in known or sum(known) == pytest.approx(stage.joules)


@pytest.mark.parametrize("began", [0.0, -1e9])
def test_phases_are_told_apart_with_and_without_frequent_polls_at_first(began: float) -> None:
    marks, joules = loop(60.0)
    readings = counter(joules, marks[-1][0], began=max(began, -0.5))
    if began:
        readings = [each for i, each in enumerate(readings) if each[0] > 0 or i == 0]
    record = replay(marks, {"gpu0": readings})
    assert record.devices[0].refresh == "regular"
    waited = record.stages["train"].phases["data_wait"]
    assert waited.joules == pytest.approx(WAIT_WATTS * waited.seconds, rel=0.1)


def test_a_replay_does_not_depend_on_the_clocks_zero() -> None:
    found = []
    for zero in (0.0, -1000.0, 1.7e9):
        marks, joules = loop(10.0)
        moved = [(time + zero, stage, phase) for time, stage, phase in marks]
        readings = [(time + zero, value) for time, value in counter(joules, marks[-1][0])]
        found.append(replay(moved, {"gpu0": readings}))
    for record in found[1:]:
        assert record.total.joules == pytest.approx(found[0].total.joules, rel=1e-6)
        assert record.total.seconds == pytest.approx(found[0].total.seconds, abs=1e-5)


def test_a_minute_is_replayed_within_five_seconds() -> None:
    marks, joules = loop(60.0, wait_s=0.03, compute_s=0.07)
    readings = counter(joules, marks[-1][0])
    replay(marks, {"gpu0": readings})  # NumPy is imported
    times = []
    for _ in range(3):
        begun = perf_counter()
        replay(marks, {"gpu0": readings})
        times.append(perf_counter() - begun)
    assert min(times) < 5  # 0.15 s on two idle cores


@pytest.mark.parametrize("window_s", [None, 0.025, 0.1])
def test_phases_hold_where_several_refreshes_lie_between_polls(window_s: float | None, *, full: bool) -> None:
    held = []
    for seed in range(10) if full else (2, 5):
        world = replace(KINDS["ramp 5 ms"](seed), refresh_s=0.025)
        rng = np.random.default_rng(seed)
        read, end = world.shown(rng, window_s), float(world.edges[-1])
        polls = np.concatenate([np.arange(-1, -0.55, 0.0012), -0.55 + np.cumsum(rng.uniform(0.02, 0.08, int(25 * end)))])
        marks: Marks = [
            (start, "train", "data_wait" if phase == WAIT else "compute")
            for start, phase in zip(world.edges[:-1].tolist(), world.phases.tolist(), strict=True)
        ]
        shown = {"gpu0": [(time, read(time)) for time in polls.tolist()]}
        marks.append((end, None, None))
        record = replay(marks, shown) if window_s is None else replay(marks, powers=shown, windows={"gpu0": window_s})
        for name, phase in (("data_wait", WAIT), ("compute", COMPUTE)):
            found = record.stages["train"].phases[name]
            assert found.low_joules is not None
            assert found.high_joules is not None
            held.append(found.low_joules <= world.joules[phase] <= found.high_joules)
    assert sum(held) >= 0.95 * len(held)


@pytest.mark.parametrize("gap_s", [1.0, 7.0])
def test_two_readings_give_the_power_between_them(gap_s: float) -> None:
    run_s = 0.5 * gap_s
    marks: Marks = [(0.2 * gap_s, "train", "compute"), (0.2 * gap_s + run_s, None, None)]
    record = replay(marks, {"gpu0": [(0.0, 0.0), (gap_s, 100.0 * gap_s)]})
    assert record.total.joules == pytest.approx(100.0 * run_s)


def test_time_between_two_runs_belongs_to_none() -> None:
    first, joules = loop(5.0)
    second, _ = loop(5.0, began=first[-1][0] + 3)
    record = replay([*first, *second], {"gpu0": counter(joules, second[-1][0])})
    assert record.total.seconds == pytest.approx(second[-1][0] - 3)
    assert record.stages.keys() <= {"train", "other"}


def test_without_samples_a_batch_of_unknown_size_ends_with_each_computation() -> None:
    marks, joules = loop(5.0)
    stage = replay(marks, {"gpu0": counter(joules, marks[-1][0])}).stages["train"]
    assert (stage.batches, stage.samples) == (sum(phase == "compute" for _, _, phase in marks), None)


# --------------------------------------------------------------------------------------------- odd and impossible input


def test_a_failed_read_is_a_gap_and_no_zero() -> None:
    marks, joules = loop(20.0)
    readings = counter(joules, marks[-1][0])
    gaps: list[Readings] = [[(t, gap if 5 < t < 8 else value) for t, value in readings] for gap in (math.nan, None)]
    records = [replay(marks, {"gpu0": polls}) for polls in gaps]
    assert records[0].devices == records[1].devices
    assert records[0].stages == records[1].stages
    assert records[0].devices[0].missing_s == pytest.approx(3.0, abs=0.2)
    assert records[0].total.joules == pytest.approx(joules(marks[-1][0]), rel=1e-2)  # the counter went on


@pytest.mark.parametrize("readings", [[], [(1.0, 5.0)], [(1.0, None)], [(t / 20, math.nan) for t in range(100)]])
def test_energy_without_readings_is_unknown(readings: Readings) -> None:
    marks, _ = loop(5.0)
    for devices in ({"counters": {"gpu0": readings}}, {"powers": {"gpu0": readings}}, {}):
        record = replay(marks, **devices)
        assert record.total.joules is None
        assert record.stages["train"].joules is None
        assert record.total.seconds == pytest.approx(marks[-1][0])


FOUR_SECONDS: Marks = [(0.0, "train", "data_wait"), (1.0, "train", "compute"), (3.0, "train", "data_wait"), (4.0, None, None)]
THREE_HUNDRED_WATTS = [(t / 20, 1000.0 + 15 * t) for t in range(-20, 120)]


def both_kinds(times: Callable[[float], bool]) -> list[dict[str, Any]]:
    """Return readings of a counter and of power at these times of a run that draws 300 W."""
    counted: Readings = [(time, joules) for time, joules in THREE_HUNDRED_WATTS if times(time)]
    return [{"counters": {"gpu0": counted}}, {"powers": {"gpu0": [(time, 300.0) for time, _ in counted]}}]


@pytest.mark.parametrize("times", [lambda t: t > 4.5, lambda t: t < -0.1, lambda t: t == 2.0])
def test_energy_of_a_run_that_readings_do_not_cover_is_unknown(times: Callable[[float], bool]) -> None:
    for readings in both_kinds(times):
        record = replay(FOUR_SECONDS, **readings)
        assert record.total.joules is record.devices[0].joules is record.stages["train"].joules is None
        assert record.total.lower_bound
        assert record.devices[0].missing_s == pytest.approx(4.0, abs=0.1)
        assert "gpu0 could not be read for 4.0 of 4.0 s; its energy then is not included." in record.warnings


def test_readings_of_another_time_say_nothing() -> None:
    far = [(time + 1e8, joules) for time, joules in THREE_HUNDRED_WATTS]
    record = replay(FOUR_SECONDS, {"gpu0": far})
    assert record.total.joules is None
    assert record.devices[0].missing_s == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("times", "known_s"),
    [(lambda t: t > 2, 2.0), (lambda t: t < 2, 2.0), (lambda t: t >= 0.9, 3.1), (lambda t: -0.5 < t < 1 or t > 3, 2.0)],
)
def test_energy_of_a_run_that_readings_cover_in_part_is_a_lower_bound(times: Callable[[float], bool], known_s: float) -> None:
    counted, power = (replay(FOUR_SECONDS, **readings) for readings in both_kinds(times))
    assert power.total.joules == pytest.approx(300 * known_s, abs=40)
    assert power.total.lower_bound
    (warning,) = [text for text in power.warnings if "could not be read" in text]
    assert warning.endswith("of 4.0 s; its energy then is not included.")
    assert power.devices[0].missing_s == pytest.approx(4.0 - known_s, abs=0.15)
    assert counted.devices[0].missing_s == pytest.approx(4.0 - known_s, abs=0.15)
    bridged = times(3.5) and times(0.5)
    assert counted.total.lower_bound is not bridged  # a counter counts in a gap between two readings, too
    assert counted.total.joules == pytest.approx(300 * (4.0 if bridged else known_s), abs=40)


def test_time_outside_the_run_is_not_missing() -> None:
    early = [(time, joules) for time, joules in THREE_HUNDRED_WATTS if time < 4.5]
    marks: Marks = [(0.0, "train", "compute"), (1.0, None, None), (3.0, "train", "compute"), (4.0, None, None)]
    late = [(t / 20, 300.0) for t in range(-400, 2000) if not 22 < t < 58]  # is read for longer than the other, but for a pause
    record = replay(marks, {"a": early}, {"b": late})
    assert [device.missing_s for device in record.devices] == [0.0, 0.0]
    assert not record.total.lower_bound
    assert record.total.joules == pytest.approx(2 * 600, rel=0.1)


def test_a_device_that_is_read_late_makes_a_live_run_a_lower_bound() -> None:
    clock = ManualClock()
    counter = ScriptedCounter(PowerCurve(clock, 100.0), clock, 0.1)
    counter.failing = True
    with SteppedMeter(clock, backends=[ScriptedBackend([counter])], verbose=False) as meter:
        clock.advance(2.0)
        assert meter.record.total.joules is None
        counter.failing = False
        clock.advance(2.0)
        assert meter.record.total.lower_bound
    (device,) = meter.record.devices
    assert meter.record.total.lower_bound
    assert device.joules == pytest.approx(100 * (meter.record.total.seconds - device.missing_s), rel=0.1)


@pytest.mark.parametrize("step_s", [0.01, 0.1, 1.0])
def test_readings_of_one_instant_correct_each_other(step_s: float) -> None:
    """Logs round their times, so that several values have one."""
    marks, joules = loop(30.0)
    counted = [(math.floor(t / step_s) * step_s, value) for t, value in counter(joules, marks[-1][0], refresh_s=0.01)]
    drawn = [(math.floor(t / step_s) * step_s, value) for t, value in power(joules, marks[-1][0], 0.004)]
    for readings in ({"counters": {"a": counted}}, {"powers": {"a": drawn}}, {"powers": {"a": drawn}, "windows": {"a": 0.1}}):
        assert replay(marks, **readings).total.joules == pytest.approx(joules(marks[-1][0]), rel=0.05 + step_s / 10)


def test_names_that_no_text_can_have_are_escaped() -> None:
    record = replay(FOUR_SECONDS, {"caf\udce9": THREE_HUNDRED_WATTS})
    assert record.devices[0].id == r"caf\udce9"
    assert record.total.joules == pytest.approx(1200, rel=0.05)


def test_a_device_whose_name_no_text_can_have_is_measured_and_replayed(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "raw.jsonl"
    source = ScriptedCounter(PowerCurve(clock, 100.0), clock, 0.1, device=device("caf\udce9"))
    with SteppedMeter(clock, backends=[ScriptedBackend([source])], recording=path, verbose=False) as meter:
        clock.advance(3.0)
    assert figures_of(replay_file(path)) == figures_of(meter.record)
    assert replay_file(path).devices[0].id == r"scripted:caf\udce9"


def test_one_batch_has_its_energy_and_phases_that_are_unknown_or_sum_up() -> None:
    marks: Marks = [(0.0, "train", "data_wait"), (1.02, "train", "compute"), (2.5, None, None)]
    joules = lambda time: float(np.interp(time, [-1, 0, 1.02, 2.5, 9], [-90, 0, 91.8, 713.4, 1298.4]))  # noqa: E731
    record = replay(marks, {"gpu0": counter(joules, 2.5)})
    assert record.stages["train"].batches == 1
    assert record.total.joules == pytest.approx(713.4, rel=0.03)


@pytest.mark.parametrize(("compute_s", "seconds", "step_s"), [(1e-5, 0.3, 0.05), (3600.0, 7200.0, 1.0)])
def test_batches_of_ten_microseconds_and_of_an_hour_are_counted(compute_s: float, seconds: float, step_s: float) -> None:
    marks, joules = loop(seconds, wait_s=compute_s / 4, compute_s=compute_s)
    end = marks[-1][0]
    record = replay(marks, powers={"gpu0": power(joules, end, step_s)})
    assert record.stages["train"].batches == sum(phase == "compute" for _, _, phase in marks)
    assert record.total.seconds == pytest.approx(end, rel=1e-6)
    assert record.total.joules == pytest.approx(joules(end), rel=0.3 if seconds < 1 else 0.01)


def test_a_phase_of_no_time_has_no_energy() -> None:
    marks, joules = loop(10.0)
    with_empty = [part for mark in marks[:-1] for part in ((mark[0], "train", "other"), mark)]
    plain, odd = (replay(each, {"gpu0": counter(joules, marks[-1][0])}) for each in (marks, [*with_empty, marks[-1]]))
    assert odd.total.joules == pytest.approx(plain.total.joules)
    assert odd.stages["train"].phases.keys() == plain.stages["train"].phases.keys()


GOOD: Marks = [(0.0, "train", "compute"), (1.0, None, None)]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"marks": []}, "marks must end with (s, None, None)"),
        ({"marks": GOOD[:1]}, "marks must end with (s, None, None)"),
        ({"marks": None}, "marks is None; give (s, stage, phase)."),
        ({"marks": [5]}, "marks[0] is 5; give (s, stage, phase)."),
        ({"marks": [(0.0, "train")]}, "marks[0] is (0.0, 'train'); give (s, stage, phase)."),
        ({"marks": [(math.nan, "train", "compute"), GOOD[1]]}, "marks[0] is (nan, 'train', 'compute')"),
        ({"marks": [("0", "train", "compute"), GOOD[1]]}, "marks[0] is ('0', 'train', 'compute')"),
        ({"marks": [(2.0, "train", "compute"), GOOD[1]]}, "marks run backwards, from 2 to 1 s at marks[1]"),
        ({"marks": [(0.0, "trian", "compute"), GOOD[1]]}, "the stage of marks[0] is 'trian'; use one of train, validate"),
        ({"marks": [(0.0, "train", "sleep"), GOOD[1]]}, "the phase of marks[0] is 'sleep'; use one of compute, data_wait"),
        ({"marks": [(0.0, "train", None), GOOD[1]]}, "the phase of marks[0] is None; use one of"),
        ({"marks": [(0.0, None, "compute"), GOOD[1]]}, "the stage of marks[0] is None; use one of"),
        ({"counters": {"a": [(1.0, 5.0), (0.5, 6.0)]}}, "counters['a'] run backwards, from 1 to 0.5 s at counters['a'][1]"),
        ({"counters": {"a": [(1.0, "5")]}}, "counters['a'][0] has the value '5'; give a number, or None"),
        ({"counters": {"a": [1.0]}}, "counters['a'][0] is 1.0; give (s, value)."),
        ({"counters": {"a": 7}}, "counters['a'] is 7; give (s, value)."),
        ({"counters": {"a": [(1e12, 5.0)]}}, "up to 1e+12 s apart; give all of them in s of the same clock"),
        ({"counters": {"a": []}, "powers": {"a": []}}, "The device 'a' is in counters and in powers; give it in one of them."),
        ({"kind": "fpga"}, "kind is 'fpga'; use one of gpu, cpu"),
        ({"counters": [5]}, "counters is [5]; give a dict by the names of devices."),
        ({"powers": "a"}, "powers is 'a'; give a dict by the names of devices."),
        ({"windows": 0.1}, "windows is 0.1; give a dict by the names of devices."),
        ({"counters": {5: [], "5": []}}, "counters has two names that are the same text, of 5; give each device a name"),
        ({"powers": {"a": []}, "windows": {"a": 1e300}}, "windows['a'] is 1e+300; give the length of a window in s"),
        (
            {"powers": {"a": [(0.0, 5), (4.0, 5)]}, "windows": {"a": 100}},
            "windows['a'] is 100 s, and its readings take 4 s; give the length of the window",
        ),
        ({"windows": {"a": 0.1}}, "windows['a'] is 0.1; give the length of a window in s for a name of powers."),
        ({"powers": {"a": []}, "windows": {"a": -1}}, "windows['a'] is -1; give the length of a window in s"),
        ({"powers": {"a": []}, "windows": {"a": math.nan}}, "windows['a'] is nan; give the length of a window in s"),
        ({"samples": [(2.0, 5)]}, "samples[0] is at 2 s, outside the run"),
        ({"samples": [(-1.0, 5)]}, "samples[0] is at -1 s, outside the run"),
        ({"samples": [(0.5, -5)]}, "samples[0] has -5 samples; give a whole number"),
        ({"samples": [(0.5, True)]}, "samples[0] has True samples; give a whole number"),
        ({"samples": [(0.5, 4.5)]}, "samples[0] has 4.5 samples; give a whole number"),
        ({"samples": [(0.5, 10**30)]}, "samples; give a whole number"),
        ({"samples": [(0.4, 10**18), (0.5, 1)]}, "samples has more than 1e+18 samples in all"),
        ({"samples": [(0.5, 5, -1)]}, "samples[0] has -1 tokens; give a whole number"),
        ({"samples": [(0.5, None, "7")]}, "samples[0] has '7' tokens; give a whole number"),
        ({"samples": [(0.5, 1, 2, 3)]}, "samples[0] is (0.5, 1, 2, 3); give (s, number of samples) or (s, "),
        ({"samples": [(0.4, 1, 10**18), (0.5, 1, 1)]}, "samples has more than 1e+18 tokens in all"),
        ({"samples": [(0.5, 1), (0.4, 1)]}, "samples run backwards"),
    ],
)
def test_what_cannot_be_a_run_is_refused_in_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        replay(**{"marks": GOOD, **given})
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_numbers_of_numpy_are_numbers() -> None:
    samples = [(np.float64(1.0), np.int64(4)), (3.0, np.uint8(3))]
    record = replay(np.array(FOUR_SECONDS, dtype=object), {"a": np.array(THREE_HUNDRED_WATTS)}, samples=samples)
    assert record.stages["train"].samples == 7


def test_a_replay_without_devices_says_so_of_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    with SteppedMeter(ManualClock(), backends=[], recording=path, verbose=False) as meter, meter.stage("train"):
        pass
    for record in (replay_file(path), replay(FOUR_SECONDS)):
        assert "No device can be read from this recording: energy is unknown." in record.warnings


# ------------------------------------------------------------------------------------------------------ measured traces


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("refresh_s", [0.02, 0.05, 0.1, 0.13])
def test_totals_of_measured_power_are_the_meters(name: str, refresh_s: float) -> None:
    trace = load_trace(name)
    for seed, shift_s in enumerate((0.0, 0.002, 0.004)):
        record = replay(trace.marks(shift_s), {"gpu0": trace.counter(refresh_s, seed * 0.007, seed)})
        # The ends are between two refreshes, where the fitted power divides: off by a part of one refresh at most.
        slack = 470 * refresh_s + 470 * shift_s
        assert record.total.joules == pytest.approx(trace.true_joules(), abs=slack)
        assert record.total.joules == pytest.approx(sum(stage.joules or 0 for stage in record.stages.values()))


@pytest.mark.parametrize("name", NAMES)
def test_replayed_power_readings_sum_to_their_integral(name: str) -> None:
    trace = load_trace(name)
    for reading in trace.readings:
        polls = trace.power(reading)
        begin, end = trace.edges_s[0], trace.edges_s[-1]
        times, watts = map(np.array, zip(*polls, strict=True))
        joules = np.concatenate([[0.0], np.cumsum((watts[1:] + watts[:-1]) / 2 * np.diff(times))])
        expected = np.interp(end, times, joules) - np.interp(begin, times, joules)
        record = replay(trace.marks(), powers={"gpu0": polls})
        assert record.total.joules == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", ["rtx3090-square", "rtx3090-step", "a5000-step"])
def test_readings_of_a_known_window_are_dated_back(name: str) -> None:
    trace = load_trace(name)
    polls = trace.power("power_draw_average")
    times, watts = map(np.array, zip(*polls, strict=True))
    joules = np.concatenate([[0.0], np.cumsum((watts[1:] + watts[:-1]) / 2 * np.diff(times))])
    # Half of the window of 1 s, and half of the 0.1 s for which each reading is shown.
    begin, end = np.interp([trace.edges_s[0] + 0.55, trace.edges_s[-1] + 0.55], times, joules)
    record = replay(trace.marks(), powers={"gpu0": polls}, windows={"gpu0": 1.0})
    assert record.total.joules == pytest.approx(end - begin, rel=0.005)
    assert record.total.joules == pytest.approx(trace.true_joules(), rel=0.1)  # what the sensor is wrong by


@pytest.mark.parametrize("names", [["gpu0", "gpu1", "gpu2", "gpu3"], ["nvml:0", "nvml:1", "nvml:2", "nvml:3"]])
def test_an_interval_does_not_depend_on_the_names_of_devices(names: list[str]) -> None:
    rng, marks, knots = random.Random(4), [], [(-1.0, 0.0)]
    time = joules = 0.0
    for _ in range(300):
        for phase, watts, mean in (("data_wait", 90.0, 0.04), ("compute", 350.0, 0.13)):
            marks.append((time, "train", phase))
            knots.append((time, joules))
            length = mean * rng.uniform(0.6, 1.4)
            time, joules = time + length, joules + watts * length
    marks.append((time, None, None))
    knots.append((time, joules))

    polls = np.arange(-0.5, time + 0.5, 0.03)
    shown = np.interp(np.floor((polls - 0.01) / 0.1) * 0.1 + 0.01, *np.array(knots).T)
    counter = list(zip(polls.tolist(), shown.tolist(), strict=True))

    one = replay(marks, {"gpu0": counter}).stages["train"].phases["data_wait"]
    four = replay(marks, dict.fromkeys(names, counter)).stages["train"].phases["data_wait"]
    assert one.relative_uncertainty is not None
    assert four.relative_uncertainty == pytest.approx(one.relative_uncertainty, rel=0.1)  # all of them err alike
