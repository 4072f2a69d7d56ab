"""What holds of any split: it conserves energy, grows with the time, and depends on no unit of power and no zero of time."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from worlds import COMPUTE, KINDS, WAIT, Power, World, measure

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.testing import replay

pytestmark = pytest.mark.statistics

SEEDS = st.integers(0, 2**32 - 1)

DAY_NS = 24 * 3600 * 10**9


def examples(full: bool) -> Any:  # noqa: FBT001 - what Hypothesis returns
    return settings(max_examples=60 if full else 4, deadline=None)


class Scaled:
    """A curve with another unit of power."""

    def __init__(self, curve: Any, factor: float) -> None:
        self._curve, self._factor = curve, factor

    def joules(self, times: Any) -> Any:
        return self._factor * self._curve.joules(times)


# ------------------------------------------------------------------------------------------------------- conservation


def test_phases_sum_to_the_stage_and_stages_to_the_total(*, full: bool) -> None:
    examples(full)(given(seed=SEEDS, batches=st.integers(1, 60), devices=st.integers(1, 3))(conserves))()


def conserves(seed: int, batches: int, devices: int) -> None:
    """Replay a random run, and look for a joule that was lost or made."""
    record, true = random_run(seed, batches, devices)
    assert record.total.joules is not None
    assert record.total.joules == pytest.approx(sum(stage.joules or 0 for stage in record.stages.values()))
    assert record.total.joules == pytest.approx(sum(device.joules or 0 for device in record.devices))
    assert record.total.joules == pytest.approx(true, rel=0.05, abs=60.0 * devices)
    for stage in record.stages.values():
        assert stage.joules == pytest.approx(sum(stage.devices.values()))
        assert stage.seconds == pytest.approx(sum(phase.seconds or 0 for phase in stage.phases.values()))
        known = [phase.joules for phase in stage.phases.values()]
        assert None in known or sum(each or 0 for each in known) == pytest.approx(stage.joules)
        assert sum(phase.low_joules or 0 for phase in stage.phases.values()) <= (stage.joules or 0) * (1 + 1e-9)
        assert sum(phase.high_joules or 0 for phase in stage.phases.values()) >= (stage.joules or 0) * (1 - 1e-9)


def random_run(seed: int, batches: int, devices: int) -> tuple[RunRecord, float]:
    """Return the record of a random run on some devices, and their true energy."""
    rng = random.Random(seed)
    scale = rng.choice([0.001, 0.1, 1.0])
    watts = {phase: rng.uniform(20, 400) for phase in ("compute", "data_wait", "compile", "other")}
    marks: list[tuple[float, Any, Any]] = []
    times, joules = [0.0], [0.0]
    for _ in range(batches):
        stage = rng.choice(["train", "train", "train", "validate"])
        for phase in rng.choice([("data_wait", "compute"), ("data_wait", "compute", "other"), ("compile",)]):
            marks.append((times[-1], stage, phase))
            length = scale * rng.expovariate(5)
            times.append(times[-1] + length)
            joules.append(joules[-1] + watts[phase] * length)
    marks.append((times[-1], None, None))
    period = rng.choice([0.02, 0.1, 0.5])
    polls = np.arange(-1.0, times[-1] + 1.0, max(0.005, times[-1] / 2000))
    shown = np.interp(polls // period * period, [-10.0, *times, times[-1] + 10], [-500.0, *joules, joules[-1] + 500])
    counters = {
        f"gpu{i}": [(t, 1000 + (i + 1) * e) for t, e in zip(polls.tolist(), shown.tolist(), strict=True)]
        for i in range(devices)
    }
    return replay(marks, counters), joules[-1] * sum(range(1, devices + 1))


# ------------------------------------------------------------------------------------------------------- monotonicity


def test_longer_waits_never_use_less_energy(*, full: bool) -> None:
    examples(full)(given(seed=SEEDS, longer=st.floats(1.5, 3.0), watts=st.floats(20, 400))(grows))()


def grows(seed: int, longer: float, watts: float) -> None:
    """Let the same batches wait longer at the same power."""
    rng = np.random.default_rng(seed)
    count = 150
    waits, computes = 0.05 * rng.uniform(0.7, 1.3, count), 0.15 * rng.uniform(0.7, 1.3, count)
    found = []
    for factor in (1.0, longer):
        edges = np.concatenate([[0.0], np.cumsum(np.column_stack([factor * waits, computes]).ravel())])
        power = Power(edges, np.append(np.tile([watts, 300.0], count), watts), 0.003)
        found.append(measure(World(edges, np.tile([WAIT, COMPUTE], count), power), seed % 1000))
    short, long = found
    assert long.joules > short.joules
    assert long.splits[WAIT].high >= short.splits[WAIT].low
    if short.reported() and long.reported():
        assert long.splits[WAIT].joules > short.splits[WAIT].joules


# --------------------------------------------------------------------------------------------------------- invariance


def test_twice_the_power_is_twice_the_energy(*, full: bool) -> None:
    examples(full)(given(seed=st.integers(0, 10**6), kind=st.sampled_from(sorted(KINDS)))(scales))()


def scales(seed: int, kind: str) -> None:
    """Double the power of a world, and the resolution of its counter."""
    world = shorter(KINDS[kind](seed))
    twice = replace(world, power=Scaled(world.power, 2.0), resolution=2 * world.resolution)
    for once, other in zip(measure(world, seed % 1000).splits, measure(twice, seed % 1000).splits, strict=True):
        assert other.joules == pytest.approx(2 * once.joules, rel=1e-6)
        assert (other.low, other.high) == pytest.approx((2 * once.low, 2 * once.high), rel=1e-6, abs=1e-3)
        assert other.resolved == once.resolved


def test_another_zero_of_the_clock_changes_nothing(*, full: bool) -> None:
    moves = st.integers(0, 30 * DAY_NS)
    examples(full)(given(seed=st.integers(0, 10**6), kind=st.sampled_from(sorted(KINDS)), moved_ns=moves)(stays))()


def stays(seed: int, kind: str, moved_ns: int) -> None:
    """Begin the clock of a world at another time."""
    world = shorter(KINDS[kind](seed))
    for once, other in zip(
        measure(world, seed % 1000).splits, measure(world, seed % 1000, moved_ns=moved_ns).splits, strict=True
    ):
        # After some days, a float of the clock is known to half a nanosecond, which can tip a choice between equals.
        small = max(1e-3, 0.01 * (once.high - once.low))
        assert (other.joules, other.low, other.high) == pytest.approx((once.joules, once.low, once.high), rel=1e-4, abs=small)
        assert other.resolved == once.resolved


def test_another_zero_of_marks_and_readings_changes_no_record(*, full: bool) -> None:
    examples(full)(given(seed=st.integers(0, 10**6), zero=st.integers(-(2**30), 2**30))(moves))()


def moves(seed: int, zero: int) -> None:
    """Replay a run at two times of a clock whose steps are powers of two, so that no rounding differs."""
    rng = random.Random(seed)
    edges = np.cumsum([rng.randrange(2**16, 2**18) for _ in range(60)]) / 2**20
    marks: list[tuple[float, Any, Any]] = [
        (t, "train", ("data_wait", "compute")[i % 2]) for i, t in enumerate(edges.tolist()[:-1])
    ]
    marks.append((float(edges[-1]), None, None))
    polls = [(t / 32, 200.0 * (t // 4)) for t in range(-32, int(32 * edges[-1]) + 32)]
    records = [
        replay([(t + moved, s, p) for t, s, p in marks], {"gpu0": [(t + moved, value) for t, value in polls]})
        for moved in (0, zero)
    ]
    assert to_builtins(records[0].stages) == to_builtins(records[1].stages)
    assert to_builtins(records[0].devices) == to_builtins(records[1].devices)


def shorter(world: World) -> World:
    """Return the first 20 s of a world."""
    keep = min(len(world.phases), 4000, int(np.searchsorted(world.edges, 20.0)))
    return replace(world, edges=world.edges[: keep + 1], phases=world.phases[:keep])
