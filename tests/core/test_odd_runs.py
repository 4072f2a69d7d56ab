"""Odd runs end in a figure, a range or one sentence, and never in NaN or an interval that is false."""

import itertools
import random
from collections.abc import Callable, Sequence
from math import inf, isfinite, nan, sin
from typing import Any

import msgspec
import pytest

from ml_energy_callbacks import RunRecord
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

WATTS = {"data_wait": 90.0, "compute": 300.0}

Parts = Sequence[tuple[float, float]]
"""Lengths of each wait and of the batch after it, in s."""


class World:
    """A training on one GPU under a manual clock.

    Attributes:
        clock: The clock.
        curve: Power of the GPU.
        true: True energy of each phase so far, in J.
    """

    def __init__(self) -> None:
        """Start with an idle GPU."""
        self.clock = ManualClock()
        self.curve = PowerCurve(self.clock, WATTS["data_wait"])
        self.true = dict.fromkeys(WATTS, 0.0)

    def train(self, parts: Parts, source: Any = None, **options: Any) -> RunRecord:
        """Train on a counter that refreshes every 0.1 s, or on another source, and return the record."""
        source = source or ScriptedCounter(self.curve, self.clock, period_s=0.1, offset_s=0.03)
        meter = SteppedMeter(self.clock, backends=[ScriptedBackend([source])], carbon_intensity=1, verbose=False, **options)
        with meter, meter.stage("train"):
            for wait_s, compute_s in parts:
                self._spend("data_wait", wait_s)
                with meter.batch(samples=1):
                    self._spend("compute", compute_s)
                self.curve.set(WATTS["data_wait"])
        return meter.record

    def _spend(self, phase: str, seconds: float) -> None:
        self.curve.set(WATTS[phase])
        before = self.curve.joules()
        self.clock.advance(seconds)
        self.true[phase] += self.curve.joules() - before


def varied(wait_s: float, compute_s: float, count: int) -> Parts:
    rng = random.Random(count)
    return [(wait_s * rng.uniform(0.7, 1.3), compute_s * rng.uniform(0.7, 1.3)) for _ in range(count)]


def numbers(part: Any) -> list[float]:
    """Return all numbers in a record."""
    if isinstance(part, dict | list):
        return [number for each in (part.values() if isinstance(part, dict) else part) for number in numbers(each)]
    return [part] if isinstance(part, float) else []


def check(record: RunRecord, true: dict[str, float] | None = None) -> None:
    """Check that a record is whole, adds up and is true."""
    assert all(map(isfinite, numbers(msgspec.to_builtins(record))))
    assert decode_record(encode_record(record), "energy.json") == record
    for stage in record.stages.values():
        for phase in stage.phases.values():
            assert (phase.joules is None) == (phase.reason is not None)
            assert (phase.low_joules is None) == (stage.joules is None)
            if phase.low_joules is not None and phase.high_joules is not None:
                middle = phase.low_joules if phase.joules is None else phase.joules
                assert 0 <= phase.low_joules <= middle <= phase.high_joules
        if stage.joules is not None:
            assert sum(phase.low_joules or 0 for phase in stage.phases.values()) <= stage.joules + 1e-6
            assert sum(phase.high_joules or 0 for phase in stage.phases.values()) >= stage.joules - 1e-6
            known = [phase.joules for phase in stage.phases.values()]
            assert None in known or sum(each or 0 for each in known) == pytest.approx(stage.joules)
    for name, phase in record.stages["train"].phases.items():
        if true is not None:
            assert phase.low_joules is not None
            assert phase.high_joules is not None
            assert phase.low_joules - 0.01 <= true[name] <= phase.high_joules + 0.01


@pytest.mark.parametrize("batches", [1, 2, 3, 6, 10, 30])
def test_a_run_of_few_batches_is_true(batches: int) -> None:
    world = World()
    check(world.train(varied(0.05, 0.2, batches)), world.true)


def test_waits_of_no_time_are_no_waits() -> None:
    world = World()
    record = world.train([(0.0, each) for _, each in varied(0.05, 0.2, 20)])
    check(record, world.true)
    assert record.stages["train"].phases.keys() == {"compute"}


def test_phases_of_no_time_among_others_change_nothing() -> None:
    world = World()
    parts = varied(0.05, 0.2, 30)
    empty = [part for each in parts for part in ((0.0, 0.0), each, (0.0, 0.0))]
    record = world.train(empty)
    check(record, world.true)
    assert record.stages["train"].batches == len(empty)


def test_a_run_of_no_time_has_no_energy_of_its_own() -> None:
    world = World()
    record = world.train([(0.0, 0.0)] * 3)
    assert "train" not in record.stages
    assert all(map(isfinite, numbers(msgspec.to_builtins(record))))


@pytest.mark.parametrize("batches", [1, 3000])
def test_batches_of_ten_microseconds_are_a_range(batches: int) -> None:
    world = World()
    record = world.train([(2e-6, 1e-5)] * batches)
    check(record, world.true)
    assert record.stages["train"].batches == batches
    assert record.stages["train"].phases["compute"].joules is None


@pytest.mark.parametrize("batches", [1, 2])
def test_batches_of_an_hour_are_told(batches: int) -> None:
    world = World()
    record = world.train([(60.0, 3600.0)] * batches, sample_interval=5.0)
    check(record, world.true)
    for name, joules in world.true.items():
        assert record.stages["train"].phases[name].joules == pytest.approx(joules, rel=0.01)


@pytest.mark.parametrize("odd", [nan, inf, -inf, -1e300])
def test_odd_values_of_a_counter_are_gaps(odd: float) -> None:
    world = World()

    class Counter(ScriptedCounter):
        reads = itertools.count()

        def read(self) -> float:
            return odd if 100 < next(self.reads) % 300 < 120 else super().read()

    source = Counter(world.curve, world.clock, period_s=0.1, offset_s=0.03)
    record = world.train(varied(0.05, 0.2, 60), source)
    check(record)
    assert record.total.joules is None or record.total.joules >= 0


@pytest.mark.parametrize("odd", [nan, inf, -inf, -50.0])
def test_odd_values_of_a_power_are_gaps(odd: float) -> None:
    world = World()

    class Power(ScriptedPower):
        reads = itertools.count()

        def read(self) -> float:
            return odd if 100 < next(self.reads) % 300 < 120 else super().read()

    record = world.train(varied(0.05, 0.2, 60), Power(world.curve, world.clock))
    check(record)
    assert record.total.joules is None or record.total.joules >= 0


@pytest.mark.parametrize("odd", [nan, inf])
def test_a_device_that_shows_nothing_else_is_unknown(odd: float) -> None:
    for kind in (ScriptedCounter, ScriptedPower):
        world = World()

        class Broken(kind):  # type: ignore[misc, valid-type]
            def read(self) -> float:
                return odd

        record = world.train(varied(0.05, 0.2, 5), Broken(world.curve, world.clock))
        check(record)
        assert record.total.joules is None
        assert record.stages["train"].phases["data_wait"].reason == "No device was read."


def test_readings_without_marks_are_the_time_outside_all_stages() -> None:
    world = World()
    counter = ScriptedCounter(world.curve, world.clock, period_s=0.1, offset_s=0.03)
    meter = SteppedMeter(world.clock, backends=[ScriptedBackend([counter])], carbon_intensity=1, verbose=False)
    with meter:
        before = world.curve.joules()
        world.clock.advance(2.0)
        true = world.curve.joules() - before
    (phase,) = meter.record.stages["other"].phases.values()
    assert phase.joules == meter.record.total.joules
    assert (phase.high_joules or 0.0) >= true
    assert all(map(isfinite, numbers(msgspec.to_builtins(meter.record))))


def test_marks_that_change_place_at_one_instant_are_replayed() -> None:
    marks: list[tuple[float, Any, Any]] = [(0.0, "train", "data_wait")]
    for time in range(1, 30):
        marks += [
            (float(time), stage, phase) for stage in ("train", "validate") for phase in ("compute", "data_wait", "compute")
        ]
    polls = [(time / 20, 1000 + 10 * time) for time in range(-20, 640)]
    record = replay([*marks, (30.0, None, None)], {"gpu0": polls})
    check(record, {"compute": 0.0, "data_wait": 200.0} if "compute" in record.stages["train"].phases else {"data_wait": 200.0})
    assert record.total.joules == pytest.approx(6000, rel=0.01)


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-6, 0.01, 0.3])
def test_a_replay_of_one_short_mark_is_true(length: float) -> None:
    marks: list[tuple[float, Any, Any]] = [(0.0, "train", "compute"), (length, None, None)]
    joules: Callable[[float], float] = lambda time: 500 + 200 * (time // 0.1 * 0.1)  # noqa: E731
    record = replay(marks, {"gpu0": [(time / 100, joules(time / 100)) for time in range(-100, 100)]})
    if length >= 1e-6:
        check(record, {"compute": 200 * length})


def marks(seconds: float) -> list[tuple[float, Any, Any]]:
    """Return the marks of a loop of about this length."""
    times = list(itertools.accumulate((each for part in varied(0.05, 0.15, round(5 * seconds)) for each in part), initial=0.0))
    return [(at, "train", ("data_wait", "compute")[i % 2]) for i, at in enumerate(times[:-1])] + [(times[-1], None, None)]


def test_phases_of_a_device_that_uses_nothing_use_nothing() -> None:
    loop = marks(20)
    record = replay(loop, powers={"gpu0": [(i * 0.04, 0.0) for i in range(-25, 600)]})
    check(record)
    for phase in record.stages["train"].phases.values():
        assert (phase.joules, phase.low_joules, phase.high_joules) == (0.0, 0.0, 0.0)
        assert phase.relative_uncertainty == 0.0


@pytest.mark.parametrize("scale", [1e-170, 1e-100, 1e-30, 1e-9])
def test_energy_that_no_device_resolves_ends_no_fit_in_an_error(scale: float) -> None:
    loop = marks(40)
    times = [at for at, _, _ in loop]
    polls = [i * 0.04 for i in range(-25, round(25 * times[-1]) + 25)]
    joules = [scale * (1000 + 200 * (at // 0.1 * 0.1) + 30 * sin(at // 0.1)) for at in polls]
    record = replay(loop, {"gpu0": list(zip(polls, joules, strict=True))})
    assert all(map(isfinite, numbers(msgspec.to_builtins(record))))
    assert record.total.joules == pytest.approx(scale * 200 * times[-1], rel=0.02)
