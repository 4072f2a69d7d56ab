"""Seeded worlds whose true energy is known: a training loop's marks, a device's power, and what polls of it show.

Power relaxes exponentially to a target in each stretch of time, so that its integral is exact. Marks are in s; the first begins
the run. The phases are ``WAIT``, ``COMPUTE`` and others of the world's own.
"""

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from traces import Trace

from ml_energy_callbacks.attribution.ledger import Ledger, Mark
from ml_energy_callbacks.attribution.split import WIDEST, Split
from ml_energy_callbacks.attribution.timeline import Timeline
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.meter.sampler import Poller
from ml_energy_callbacks.meter.summary import combine
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.testing import ManualClock
from ml_energy_callbacks.testing.scripted import SCRIPTED_DEVICE

Floats = NDArray[np.float64]

WAIT, COMPUTE, OTHER = 0, 1, 2


class Curve(Protocol):
    """Power of a device."""

    def joules(self, times: Floats) -> Floats:
        """Return the energy in J up to each instant (s)."""


class Power:
    """Power that relaxes to a target in each stretch of time; before the first stretch it has the first target."""

    def __init__(self, starts: Floats, targets: Floats, taus: Floats | float = 0.0) -> None:
        """Begin stretches at ``starts`` (s), with targets in W and time constants in s (0: at once)."""
        order = np.argsort(starts, kind="stable")
        self.starts, self.targets = starts[order], targets[order]
        self.taus = np.maximum(np.broadcast_to(np.asarray(taus, dtype=float), starts.shape)[order], 1e-9)
        lengths = np.diff(self.starts)
        begin = np.empty(len(starts))
        begin[0] = watts = self.targets[0]
        for i, decay in enumerate(np.exp(-lengths / self.taus[:-1])):
            watts = self.targets[i] + (watts - self.targets[i]) * decay
            begin[i + 1] = watts
        self.begin = begin
        self.energy = np.concatenate([[0.0], np.cumsum(self._within(np.arange(len(lengths)), lengths))])

    def _within(self, place: NDArray[np.intp], passed: Floats) -> Floats:
        tau = self.taus[place]
        edge = (self.begin[place] - self.targets[place]) * tau * -np.expm1(-passed.clip(0) / tau)
        return self.targets[place] * passed + edge

    def joules(self, times: Floats) -> Floats:
        """Return the energy in J up to each instant."""
        place = (np.searchsorted(self.starts, times, "right") - 1).clip(0)
        return self.energy[place] + self._within(place, times - self.starts[place])


@dataclass(frozen=True)
class World:
    """One run.

    Attributes:
        edges: Marks in s: phase ``i`` lasts from ``edges[i]`` to ``edges[i + 1]``.
        phases: The phases.
        power: Power of the device.
        refresh_s: Period of its counter's refreshes.
        jitter: Their jitter, as a share of the period (uniform, to both sides).
        resolution: The counter's resolution in J.
        others: Powers of further devices of this kind.
        stages: The stage of each phase, numbered from 1; empty where there is one stage.
        wholes: The phase that each is a part of, or itself; empty where none is.
        counts: Whether the device counts joules.
        window_s: The device shows its power, too: the mean over so long a time up to each refresh. None if it does not.
    """

    edges: Floats
    phases: NDArray[np.intp]
    power: Curve
    refresh_s: float = 0.1
    jitter: float = 0.0
    resolution: float = 0.001
    others: Sequence[Curve] = ()
    stages: tuple[int, ...] = ()
    wholes: tuple[int, ...] = ()
    counts: bool = True
    window_s: float | None = None

    @property
    def devices(self) -> "list[World]":
        """The same run with each of the devices alone."""
        return [replace(self, power=power, others=()) for power in (self.power, *self.others)]

    @property
    def joules(self) -> dict[int, float]:
        """True energy of each phase in J, of all devices."""
        each = np.diff(np.sum([power.joules(self.edges) for power in (self.power, *self.others)], axis=0))
        return {int(phase): float(each[self.phases == phase].sum()) for phase in np.unique(self.phases)}

    def shown(self, rng: np.random.Generator, window_s: float | None = None, late_s: float = 0.0) -> Callable[[float], float]:
        """Return what a read at an instant (s) shows: energy in J, or the mean power in W over a window up to the refresh.

        What it shows is ``late_s`` behind.
        """
        end = float(self.edges[-1]) + 5
        offset = rng.random() * self.refresh_s
        instants = np.arange(-2.0 + offset, end, self.refresh_s)
        instants = np.sort(instants + self.jitter * self.refresh_s * rng.uniform(-0.5, 0.5, len(instants)))
        seen = instants - late_s
        shown = self.power.joules(seen) + 1000.0
        if window_s is not None:
            shown = (self.power.joules(seen) - self.power.joules(seen - window_s)) / window_s

        def read(now: float) -> float:
            value = float(shown[max(0, int(instants.searchsorted(now, "right")) - 1)])
            return value // self.resolution * self.resolution

        return read


@dataclass
class Loop:
    """How the marks and the power of a world come about; each kind of world changes some of it.

    Attributes:
        rng: Source of all chance.
        seconds: Length of the run.
        wait_s: Median length of a wait, and of a batch.
        spread: Lengths vary uniformly by this share to both sides.
        watts: Power of waiting and of computing.
        noise: Powers vary from phase to phase by this share (standard deviation).
        ramp_s: Time constant of power's edges.
        lag_s: The device is so far behind the host.
        tail_s: The device goes on computing after a batch for so long.
    """

    rng: np.random.Generator
    seconds: float = 60.0
    wait_s: float = 0.0
    compute_s: float = 0.0
    spread: float = 0.2
    watts: tuple[float, float] = (0.0, 0.0)
    noise: float = 0.03
    ramp_s: float = 0.0
    lag_s: float = 0.0
    tail_s: float = 0.0
    refresh_s: float = 0.1
    jitter: float = 0.0
    resolution: float = 0.001
    lengths: Callable[["Loop", int], tuple[Floats, Floats]] | None = None
    factors: Callable[["Loop", Floats, Floats], Floats] | None = None
    drift: Callable[["Loop", Floats], Floats] | None = None
    extra: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wait_s = self.wait_s or self.rng.uniform(0.025, 0.07)
        self.compute_s = self.compute_s or self.rng.uniform(0.1, 0.24)
        if not self.watts[0]:
            self.watts = self.rng.uniform(60, 130), self.rng.uniform(280, 450)

    def vary(self, median: float, count: int) -> Floats:
        """Return lengths about a median."""
        return median * (1 + self.spread * self.rng.uniform(-1, 1, count))

    def build(self) -> World:
        """Return the world."""
        count = int(self.seconds / (self.wait_s + self.compute_s) * 1.6) + 50
        waits, computes = (
            self.lengths(self, count) if self.lengths else (self.vary(self.wait_s, count), self.vary(self.compute_s, count))
        )
        factors = self.factors(self, waits, computes) if self.factors else np.ones(count)
        lengths = np.column_stack([waits, computes]).ravel()
        edges = np.concatenate([[0.0], np.cumsum(lengths)])
        keep = int(np.searchsorted(edges, self.seconds)) // 2 * 2
        edges, phases = edges[: keep + 1], np.tile([WAIT, COMPUTE], keep // 2)
        watts = np.column_stack([np.full(count, self.watts[0]), self.watts[1] * factors]).ravel()[:keep]
        watts *= 1 + self.noise * self.rng.standard_normal(keep)
        if self.drift:
            watts *= self.drift(self, edges[:-1])
        starts = edges[:-1] + self.lag_s
        if self.tail_s:
            starts = starts + np.where(phases == WAIT, np.minimum(self.tail_s, 0.8 * np.diff(edges)), 0.0)
        starts = np.append(starts, edges[-1] + self.lag_s)
        watts = np.append(watts, self.watts[0])
        return World(edges, phases, Power(starts, watts, self.ramp_s), self.refresh_s, self.jitter, self.resolution)


def _loop(seed: int, **changes: object) -> Loop:
    return Loop(np.random.default_rng(seed), **changes)  # type: ignore[arg-type] - each kind names fields of Loop


def constant(seed: int, **changes: object) -> World:
    return _loop(seed, **changes).build()


def regular(seed: int, **changes: object) -> World:
    return _loop(seed, spread=0.01, **changes).build()


def regular_ramp(seed: int) -> World:
    return regular(seed, ramp_s=0.005)


def ramp_5(seed: int) -> World:
    return _loop(seed, ramp_s=0.005).build()


def ramp_20(seed: int) -> World:
    return _loop(seed, ramp_s=0.02).build()


def ramp_50(seed: int) -> World:
    return _loop(seed, ramp_s=0.05).build()


def lag_20(seed: int) -> World:
    return _loop(seed, lag_s=0.02).build()


def lag_50_to_300(seed: int) -> World:
    loop = _loop(seed)
    loop.lag_s = loop.rng.uniform(0.05, 0.3)
    return loop.build()


def tail_15(seed: int) -> World:
    return _loop(seed, tail_s=0.015).build()


def _by_size(loop: Loop, count: int) -> tuple[Floats, Floats]:
    size = loop.rng.uniform(0.5, 1.5, count)
    waits = loop.vary(loop.wait_s, count)
    return (waits * size if loop.extra.get("waits") else waits), loop.compute_s * size * (
        1 + 0.02 * loop.rng.standard_normal(count)
    )


def _size_power(loop: Loop, _: Floats, computes: Floats) -> Floats:
    return 0.6 + 0.4 * computes / loop.compute_s


def batch_size(seed: int) -> World:
    return _loop(seed, lengths=_by_size, factors=_size_power).build()


def batch_size_and_waits(seed: int) -> World:
    return _loop(seed, lengths=_by_size, factors=_size_power, extra={"waits": 1.0}).build()


def _every_fourth(loop: Loop, count: int) -> tuple[Floats, Floats]:
    computes = loop.vary(loop.compute_s, count)
    computes[3::4] *= 2
    return loop.vary(loop.wait_s, count), computes


def _long_is_low(loop: Loop, _: Floats, computes: Floats) -> Floats:
    return np.where(computes > 1.5 * loop.compute_s, loop.extra["low"], 1.0)


def every_fourth(seed: int) -> World:
    return _loop(seed, spread=0.1, lengths=_every_fourth, factors=_long_is_low, extra={"low": 0.7}).build()


def _bimodal(loop: Loop, count: int) -> tuple[Floats, Floats]:
    long = loop.rng.random(count) < 0.3
    return loop.vary(loop.wait_s, count), loop.vary(loop.compute_s, count) * np.where(long, 4.0, 1.0)


def bimodal(seed: int) -> World:
    loop = _loop(seed, lengths=_bimodal, factors=_long_is_low, extra={"low": 0.6})
    loop.compute_s /= 2
    return loop.build()


def _wander(loop: Loop, times: Floats) -> Floats:
    steps = np.arange(0, loop.seconds * 2 + 2, 2.0)
    path = 1 + 0.05 * np.cumsum(loop.rng.standard_normal(len(steps)))
    return np.interp(times, steps, path.clip(0.7, 1.2))


def power_cap(seed: int) -> World:
    return _loop(seed, drift=_wander).build()


def _heat(loop: Loop, times: Floats) -> Floats:
    return 1 + 0.12 * -np.expm1(-times / 25)


def thermal(seed: int) -> World:
    return _loop(seed, drift=_heat).build()


def _prefetched(loop: Loop, count: int) -> tuple[Floats, Floats]:
    late = loop.rng.random(count) < 0.25
    waits = np.where(late, loop.vary(2 * loop.wait_s, count), loop.rng.uniform(0.0001, 0.0004, count))
    return waits, loop.vary(loop.compute_s, count)


def prefetched(seed: int) -> World:
    return _loop(seed, lengths=_prefetched).build()


def _follows(loop: Loop, count: int) -> tuple[Floats, Floats]:
    computes = loop.vary(loop.compute_s, count)
    return np.roll(computes, 1) * loop.wait_s / loop.compute_s, computes


def wait_follows(seed: int) -> World:
    return _loop(seed, lengths=_follows, spread=0.4).build()


def one_joule(seed: int) -> World:
    return _loop(seed, resolution=1.0).build()


def one_second(seed: int) -> World:
    return _loop(seed, refresh_s=1.0, seconds=180.0).build()


def jitter_20(seed: int) -> World:
    return _loop(seed, jitter=0.2).build()


def jitter_60(seed: int) -> World:
    return _loop(seed, jitter=0.6).build()


def tiny(seed: int) -> World:
    return _loop(seed, wait_s=0.0002, compute_s=0.0006, seconds=30.0).build()


def near_resonance(seed: int, **changes: object) -> World:
    loop = _loop(seed, spread=0.005, **changes)
    cycle = 0.1 * (1 + 0.005 * loop.rng.uniform(-1, 1)) / loop.rng.choice([1, 2])
    share = loop.rng.uniform(0.15, 0.3)
    loop.wait_s, loop.compute_s = share * cycle, (1 - share) * cycle
    return loop.build()


def near_resonance_ramp(seed: int) -> World:
    return near_resonance(seed, ramp_s=0.01)


def build(loop: Loop, parts: Callable[[int], list[tuple[int, float, float]]], **changes: float) -> World:
    """Return a world of parts in the order of time: each is a phase, a length in s, and a power in W.

    Neighbouring parts of one phase are one segment, in which power changes without a mark.
    """
    phases: list[int] = []
    marks: list[float] = []
    starts: list[float] = []
    watts: list[float] = []
    now, index = 0.0, 0
    while now < loop.seconds:
        for phase, length, power in parts(index):
            if not phases or phases[-1] != phase:
                phases.append(phase)
                marks.append(now)
            starts.append(now)
            watts.append(power * (1 + loop.noise * loop.rng.standard_normal()))
            now += length
        index += 1
    power = Power(np.array([*starts, now]) + loop.lag_s, np.array([*watts, loop.watts[0]]), loop.ramp_s)
    return World(np.array([*marks, now]), np.array(phases), power, **{"refresh_s": loop.refresh_s, **changes})


def _uniform(loop: Loop, median: float) -> float:
    return median * (1 + loop.spread * loop.rng.uniform(-1, 1))


def three_phases(seed: int) -> World:
    loop = _loop(seed, ramp_s=0.008)
    low, high = loop.watts
    return build(
        loop,
        lambda _: [
            (WAIT, _uniform(loop, loop.wait_s), low),
            (COMPUTE, _uniform(loop, loop.compute_s), high),
            (OTHER, _uniform(loop, 0.02), 0.6 * high),
        ],
    )


def checkpoints(seed: int) -> World:
    loop = _loop(seed, ramp_s=0.01)
    low, high = loop.watts
    return build(
        loop,
        lambda i: [
            (WAIT, _uniform(loop, loop.wait_s), low),
            (COMPUTE, _uniform(loop, loop.compute_s), high),
            *([(OTHER, _uniform(loop, 0.8), 1.3 * low)] if i % 40 == 39 else []),
        ],
    )


def parts_unmarked(seed: int) -> World:
    loop = _loop(seed, ramp_s=0.003)
    low, high = loop.watts

    def batch(_: int) -> list[tuple[int, float, float]]:
        length = _uniform(loop, loop.compute_s)
        return [
            (WAIT, _uniform(loop, loop.wait_s), low),
            (COMPUTE, 0.35 * length, 0.8 * high),
            (COMPUTE, 0.55 * length, high),
            (COMPUTE, 0.1 * length, 0.5 * high),
        ]

    return build(loop, batch)


def parts_marked(seed: int) -> World:
    loop = _loop(seed, ramp_s=0.003)
    low, high = loop.watts
    return build(
        loop,
        lambda _: [
            (WAIT, _uniform(loop, loop.wait_s), low),
            (COMPUTE, _uniform(loop, 0.08), 0.8 * high),
            (OTHER, _uniform(loop, 0.12), high),
            (OTHER + 1, _uniform(loop, 0.03), 0.5 * high),
        ],
    )


def batch_in_parts(refresh_s: float, seconds: float) -> Callable[[int], World]:
    """Return worlds whose batches have parts: what is left of them, transfer, forward, backward, optimizer."""

    def world(seed: int) -> World:
        loop = _loop(seed, ramp_s=0.005, refresh_s=refresh_s, seconds=seconds)
        powers = {
            WAIT: (0.04, 95.0),
            2: (0.012, 140.0),
            3: (0.06, 380.0),
            4: (0.12, 430.0),
            COMPUTE: (0.01, 180.0),
            5: (0.02, 210.0),
        }
        found = build(loop, lambda _: [(phase, _uniform(loop, length), watts) for phase, (length, watts) in powers.items()])
        return replace(found, wholes=(WAIT, COMPUTE, COMPUTE, COMPUTE, COMPUTE, COMPUTE))

    return world


def stalls(seed: int) -> World:
    loop = _loop(seed, ramp_s=0.01)
    low, high = loop.watts
    return build(
        loop,
        lambda _: [
            (WAIT, _uniform(loop, loop.wait_s) * (8 if loop.rng.random() < 0.03 else 1), low),
            (COMPUTE, _uniform(loop, loop.compute_s), high),
        ],
    )


def _steps(loop: Loop, times: Floats) -> Floats:
    changes = np.cumsum(loop.rng.uniform(2, 6, 200))
    return loop.rng.choice([0.7, 0.85, 1.0], 201)[np.searchsorted(changes, times)]


def clock_steps(seed: int) -> World:
    return _loop(seed, drift=_steps, ramp_s=0.005).build()


def _skewed(loop: Loop, count: int) -> tuple[Floats, Floats]:
    return loop.rng.exponential(loop.wait_s, count) + 0.002, loop.vary(loop.compute_s, count)


def skewed_waits(seed: int) -> World:
    return _loop(seed, lengths=_skewed, ramp_s=0.01).build()


def _two_waits(loop: Loop, count: int) -> tuple[Floats, Floats]:
    long = loop.rng.random(count) < 0.2
    return loop.vary(loop.wait_s, count) * np.where(long, 4.0, 1.0), loop.vary(loop.compute_s, count)


def two_waits(seed: int) -> World:
    return _loop(seed, lengths=_two_waits, ramp_s=0.01).build()


def dips(seed: int) -> World:
    """Wait for other GPUs in the middle of a batch, unmarked."""
    loop = _loop(seed, ramp_s=0.003)
    low, high = loop.watts

    def batch(_: int) -> list[tuple[int, float, float]]:
        length, share = _uniform(loop, loop.compute_s), loop.rng.uniform(0.2, 0.7)
        return [
            (WAIT, _uniform(loop, loop.wait_s), low),
            (COMPUTE, share * length, high),
            (COMPUTE, loop.rng.exponential(0.015), 0.5 * high),
            (COMPUTE, (1 - share) * length, high),
        ]

    return build(loop, batch)


def accumulation(seed: int) -> World:
    loop = _loop(seed, ramp_s=0.005)
    low, high = loop.watts
    return build(
        loop,
        lambda i: [
            (WAIT, _uniform(loop, loop.wait_s), low),
            (COMPUTE, _uniform(loop, loop.compute_s), high),
            *([(COMPUTE, 0.04, 1.15 * high)] if i % 4 == 3 else []),
        ],
    )


def warm_up(seed: int) -> World:
    loop = _loop(seed, ramp_s=0.005)
    low, high = loop.watts
    return build(
        loop,
        lambda i: [
            (WAIT, _uniform(loop, loop.wait_s), low),
            (COMPUTE, _uniform(loop, loop.compute_s) * (3 if i < 20 else 1), high * (0.6 if i < 20 else 1)),
        ],
    )


def slow_batches(seed: int) -> World:
    return _loop(seed, wait_s=0.3, compute_s=1.3, ramp_s=0.02, seconds=120.0).build()


def short_batches(seed: int) -> World:
    return _loop(seed, wait_s=0.015, compute_s=0.04, ramp_s=0.003).build()


def busy_waits(seed: int) -> World:
    """Draw more while waiting, as a processor does that loads the data."""
    loop = _loop(seed, ramp_s=0.002)
    loop.watts = (220.0, 120.0)
    return loop.build()


def equal_powers(seed: int) -> World:
    loop = _loop(seed)
    loop.watts = (200.0, 200.0)
    return loop.build()


def slow_rise(seed: int) -> World:
    return _loop(seed, ramp_s=0.15).build()


def refresh_20(seed: int) -> World:
    return _loop(seed, ramp_s=0.02, refresh_s=0.02).build()


def continuous(seed: int) -> World:
    return _loop(seed, ramp_s=0.005, refresh_s=0.001).build()


def heavy_noise(seed: int) -> World:
    return _loop(seed, noise=0.15, ramp_s=0.01).build()


def mixed_lags(seed: int) -> World:
    """Run behind the host by a queue that fills and empties."""
    loop = _loop(seed, ramp_s=0.005)
    world = loop.build()
    lags = 0.02 + 0.015 * np.sin(world.edges / 1.7 + loop.rng.uniform(0, 6))
    watts = np.where(world.phases == WAIT, *loop.watts)
    return replace(world, power=Power(world.edges + lags, np.append(watts, loop.watts[0]), loop.ramp_s))


def tail_of_optimizer(seed: int) -> World:
    """Go on computing for half of the wait after every second batch."""
    loop = _loop(seed, ramp_s=0.003)
    low, high = loop.watts

    def batch(i: int) -> list[tuple[int, float, float]]:
        wait = _uniform(loop, loop.wait_s)
        busy = 0.5 if i % 2 else 0.0
        return [
            (WAIT, busy * wait, 0.7 * high),
            (WAIT, (1 - busy) * wait, low),
            (COMPUTE, _uniform(loop, loop.compute_s), high),
        ]

    return build(loop, batch)


def rare_phase(seed: int) -> World:
    """Wait a few times in the run only."""
    loop = _loop(seed, ramp_s=0.01)
    low, high = loop.watts
    return build(
        loop,
        lambda i: [
            *([(WAIT, _uniform(loop, 1.5), low)] if i % 60 == 30 else []),
            (COMPUTE, _uniform(loop, loop.compute_s), high),
            (OTHER, _uniform(loop, loop.wait_s), 1.2 * low),
        ],
    )


def half_joule(seed: int) -> World:
    return _loop(seed, resolution=0.5, ramp_s=0.02).build()


def short_run(seed: int) -> World:
    return _loop(seed, seconds=12.0, ramp_s=0.005).build()


def bursts(seed: int) -> World:
    """Have 300 batches of 0.1 ms after every fifth usual one: some intervals between refreshes have too many segments."""
    loop = _loop(seed, ramp_s=0.002)
    low, high = loop.watts

    def batches(i: int) -> list[tuple[int, float, float]]:
        burst = [(WAIT, 3e-5, low), (COMPUTE, 7e-5, high)] * 300 if i % 5 == 4 else []
        return [*burst, (WAIT, _uniform(loop, loop.wait_s), low), (COMPUTE, _uniform(loop, loop.compute_s), high)]

    return build(loop, batches)


def small_gpu(seed: int) -> World:
    loop = _loop(seed, ramp_s=0.01, lag_s=0.004)
    loop.watts = (4.0, 15.0)
    return loop.build()


def validation(seed: int) -> World:
    """Validate for a second after every three seconds of training."""
    loop = _loop(seed, ramp_s=0.01)
    low, high = loop.watts

    def epoch(_: int) -> list[tuple[int, float, float]]:
        train = [(WAIT, loop.wait_s, low), (COMPUTE, loop.compute_s, high)] * 15
        validate = [(2, 0.6 * loop.wait_s, low), (3, 0.4 * loop.compute_s, 0.8 * high)] * 12
        return [(phase, _uniform(loop, length), watts) for phase, length, watts in (*train, *validate)]

    return replace(build(loop, epoch), stages=(1, 1, 2, 2))


def stages_in_turn(seed: int) -> World:
    """Train and validate in turn, a batch each: several stages lie within one interval."""
    loop = _loop(seed, ramp_s=0.005)
    low, high = loop.watts
    parts = [(WAIT, loop.wait_s, low), (COMPUTE, loop.compute_s, high), (2, 0.02, low), (3, 0.05, 0.8 * high)]
    world = build(loop, lambda _: [(phase, _uniform(loop, length), watts) for phase, length, watts in parts])
    return replace(world, stages=(1, 1, 2, 2))


def out_of_phase(seed: int) -> World:
    """Compute on two GPUs in turn: the second begins when the first is half-way, and goes on into the next wait."""
    loop = _loop(seed, ramp_s=0.01)
    world = loop.build()
    half = np.where(world.phases == COMPUTE, np.diff(world.edges) / 2, 0.0)
    starts = world.edges[:-1] + np.where(world.phases == COMPUTE, half, np.roll(half, 1) * loop.wait_s / loop.compute_s)
    watts = np.where(world.phases == WAIT, *loop.watts) * (1 + loop.noise * loop.rng.standard_normal(len(starts)))
    return replace(world, others=[Power(starts, watts, loop.ramp_s)])


def eight_devices(seed: int) -> World:
    """Compute on eight GPUs at once, each with its own power, delay and edges."""
    loop = _loop(seed)
    world = loop.build()
    powers = []
    for _ in range(8):
        low, high = (watts * loop.rng.uniform(0.85, 1.15) for watts in loop.watts)
        watts = np.where(world.phases == WAIT, low, high) * (1 + loop.noise * loop.rng.standard_normal(len(world.phases)))
        starts = world.edges + loop.rng.uniform(0, 0.01)
        powers.append(Power(starts, np.append(watts, low), loop.rng.uniform(0.003, 0.03)))
    return replace(world, power=powers[0], others=powers[1:])


_LOOPS = (ramp_5, ramp_20, lag_20, batch_size, bimodal, thermal)


def readings(window_s: float, *, counts: bool = False, refresh_s: float = 0.1) -> Callable[[int], World]:
    """Return a kind of worlds in which the device shows its power as means over a window, in loops of several kinds."""
    return lambda seed: replace(_LOOPS[seed % len(_LOOPS)](seed), window_s=window_s, counts=counts, refresh_s=refresh_s)


KINDS: dict[str, Callable[[int], World]] = {
    "constant power": constant,
    "regular": regular,
    "regular, ramp 5 ms": regular_ramp,
    "ramp 5 ms": ramp_5,
    "ramp 20 ms": ramp_20,
    "ramp 50 ms": ramp_50,
    "lag 20 ms": lag_20,
    "lag 50 to 300 ms": lag_50_to_300,
    "tail 15 ms": tail_15,
    "power by batch size": batch_size,
    "power by batch size, waits too": batch_size_and_waits,
    "every 4th batch longer at less power": every_fourth,
    "30 % of batches 4 times as long at less power": bimodal,
    "power cap": power_cap,
    "thermal drift": thermal,
    "prefetched": prefetched,
    "wait follows the batch": wait_follows,
    "counter of 1 J": one_joule,
    "refresh 1 s": one_second,
    "jitter 20 %": jitter_20,
    "jitter 60 %": jitter_60,
    "batches below 1 ms": tiny,
    "near resonance": near_resonance,
    "near resonance, ramp": near_resonance_ramp,
}
"""The kinds of worlds by which the method was developed, by name."""

MORE_KINDS: dict[str, Callable[[int], World]] = {
    "three phases": three_phases,
    "checkpoints": checkpoints,
    "forward, backward, optimizer unmarked": parts_unmarked,
    "forward, backward, optimizer marked": parts_marked,
    "stalls of the loader": stalls,
    "steps of the clock rate": clock_steps,
    "exponential waits": skewed_waits,
    "two kinds of waits": two_waits,
    "dips within batches": dips,
    "gradient accumulation": accumulation,
    "slow first batches": warm_up,
    "batches of 1.3 s": slow_batches,
    "batches of 40 ms": short_batches,
    "more power while waiting": busy_waits,
    "equal powers": equal_powers,
    "time constant 150 ms": slow_rise,
    "refresh 20 ms": refresh_20,
    "refresh 1 ms": continuous,
    "noise 15 %": heavy_noise,
    "lag that changes": mixed_lags,
    "every second wait half busy": tail_of_optimizer,
    "rare waits": rare_phase,
    "counter of 0.5 J, ramp": half_joule,
    "run of 12 s": short_run,
    "device of 15 W": small_gpu,
    "validation between": validation,
    "stages in turn": stages_in_turn,
    "two GPUs out of phase": out_of_phase,
    "eight devices": eight_devices,
    "readings of 25 ms": readings(0.025),
    "readings of 100 ms": readings(0.1),
    "readings of 1 s": readings(1.0),
    "counter, and readings of 25 ms": readings(0.025, counts=True),
    "counter, and readings of 100 ms": readings(0.1, counts=True),
    "counter, and readings of 1 s": readings(1.0, counts=True),
}
"""Further kinds. Two changed the method: "checkpoints" (delays of rare phases), "stages in turn" (errors of stages)."""


@dataclass(frozen=True)
class Moved:
    """A curve whose zero of time is another one.

    Attributes:
        curve: The curve.
        by_s: Its time at the new zero.
    """

    curve: Curve
    by_s: float

    def joules(self, times: Floats) -> Floats:
        """Return the energy in J up to each instant."""
        return self.curve.joules(times + self.by_s)


def on_trace(trace: Trace, refresh_s: float, shift_s: float) -> World:
    """Return the world of a measured trace, as a counter would show it.

    Args:
        trace: The trace.
        refresh_s: Period of the counter.
        shift_s: By how much the host's marks are late.
    """
    edges = trace.edges_s + shift_s
    phases = np.where(np.arange(len(edges) - 1) % 2 == 0, COMPUTE, WAIT)
    return World(edges - edges[0], phases, Moved(trace, edges[0]), refresh_s)


@dataclass
class Shown:
    """The device of a world, as a source.

    Attributes:
        world: The world.
        clock: Its clock.
        origin_ns: Clock at its zero.
    """

    world: World
    clock: ManualClock
    origin_ns: int
    seed: int
    device: Device
    late_s: float = 0.0

    def __post_init__(self) -> None:
        chance = np.random.default_rng(self.seed + 1000)
        self._read = self.world.shown(chance, None if self.world.counts else self.world.window_s, self.late_s)

    def read(self) -> float:
        """Return what the device shows now, in J or W."""
        return self._read((self.clock() - self.origin_ns) / NS_PER_S)

    def close(self) -> None:
        """Do nothing."""


@dataclass
class ShownTwice(Shown):
    """A device that counts joules and shows its power, too, which is renewed at other instants."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._watts = self.world.shown(np.random.default_rng(self.seed + 2000), self.world.window_s)

    def watts(self) -> float:
        """Return the power that it shows now, in W."""
        return self._watts((self.clock() - self.origin_ns) / NS_PER_S)


@dataclass(frozen=True)
class Measured:
    """What the package makes of a world.

    Attributes:
        splits: Each phase's energy on all devices, combined as in a record.
        together: The same of each phase with its parts, by the phase.
        true: Each phase's true energy, in J.
        joules: Energy of the run by the ledgers, in J.
        ledger: That of the first device.
        asked: The marks for which the energy was asked.
    """

    splits: list[Split]
    true: dict[int, float]
    joules: float
    ledger: Ledger
    asked: Sequence[Mark] = ()
    together: Mapping[int, Split] = field(default_factory=dict)

    def reported(self, phase: int = WAIT) -> bool:
        """Return whether a phase's energy is in the record, and not only its range."""
        return self.splits[phase].half_width <= WIDEST * self.splits[phase].joules

    def holds(self, phase: int = WAIT) -> bool:
        """Return whether the true energy of a phase is in its interval."""
        split = self.splits[phase]
        return split.low <= self.true[phase] <= split.high

    def error(self, phase: int = WAIT) -> float:
        """Return the relative error of a phase's energy."""
        return self.splits[phase].joules / self.true[phase] - 1

    def width(self, phase: int = WAIT) -> float:
        """Return the half-width of its interval as a share of the estimate."""
        return self.splits[phase].half_width / self.splits[phase].joules


def measure(
    world: World,
    seed: int,
    *,
    interval_s: float = 0.05,
    latency_s: float = 0.0002,
    behind_s: float = 0.0,
    late_s: float = 0.0,
    moved_ns: int = 0,
    asked_s: Sequence[float] = (),
    idle_watts: float | None = None,
    **known: Any,
) -> Measured:
    """Poll a world's device as a run would, and return what comes out.

    The marks are known beforehand: they are in the timeline's queue up to the present.

    Args:
        world: The world.
        seed: Source of the polls' and refreshes' chance.
        interval_s: Mean time between polls.
        latency_s: A poll is late by up to so much.
        behind_s: What is assumed of the device's latency.
        late_s: By how much it is behind.
        moved_ns: By how much the clock's zero is moved.
        asked_s: Instants (s) up to which the energy is asked for during the run, which is then reviewed, too.
        idle_watts: What was measured of the device's idle power.
        known: What else is thought to be known of the device, if it is not so.
    """
    rng, clock = random.Random(seed), ManualClock(NS_PER_S + moved_ns)
    timeline = Timeline(clock)
    origin = clock() + NS_PER_S
    count = int(world.phases.max()) + 1
    stages = world.stages or (1,) * count
    buckets: list[int] = []
    for phase, stage in enumerate(stages):
        whole = world.wholes[phase] if world.wholes else phase
        buckets.append(timeline.add_bucket(stage, None if whole == phase else buckets[whole]))
    marks = [
        (origin + round(edge * NS_PER_S), buckets[phase]) for edge, phase in zip(world.edges[:-1], world.phases, strict=True)
    ]
    end = origin + round(world.edges[-1] * NS_PER_S)
    marks.append((end, 0))
    method = "energy_counter" if world.counts else "power_integration"
    device = replace(SCRIPTED_DEVICE, **{"latency_s": behind_s, "power_window_s": world.window_s, "method": method, **known})
    shown = ShownTwice if world.counts and world.window_s is not None else Shown
    sources: list[tuple[Shown, Ledger]] = []
    for number, alone in enumerate(world.devices):
        own = replace(device, id=f"scripted:{number}")
        sources.append((shown(alone, clock, origin, seed + 10_000 * number, own, late_s), Ledger(own, interval_s)))
    ledgers = [ledger for _, ledger in sources]
    poller = Poller(sources, timeline, interval_s)
    poller.random.seed(seed)
    asked = [Mark(origin + round(time * NS_PER_S), (), frozenset(each.device.id for each in ledgers)) for time in asked_s]
    pending, waiting = deque(marks), deque(asked)
    reviews = deque(origin + second * NS_PER_S for second in (1, 3, *range(7, round(world.edges[-1]), 5)) if asked)

    def advance(now: int) -> None:
        clock.now_ns = now
        while pending and pending[0][0] <= now:
            timeline.queue.append(("switch", *pending.popleft(), 0, None, None))

    while clock.now_ns < end or not poller.known_until(end):
        now = max(clock.now_ns, poller.next_poll + round(rng.random() * latency_s * NS_PER_S))
        while waiting and waiting[0].time_ns <= now:
            mark = waiting.popleft()
            advance(mark.time_ns)
            mark.totals = timeline.look().totals
            for ledger in ledgers:
                ledger.add_mark(mark)
        advance(now)
        poller.poll()
        if reviews and reviews[0] <= now:
            reviews.popleft()
            for ledger in ledgers:
                ledger.fit()
    poller.close(end)
    seconds = [total / NS_PER_S for total in timeline.look().totals]
    splits, together = _split(ledgers, stages, world.wholes or tuple(range(count)), buckets, seconds, idle_watts)
    return Measured(splits, world.joules, sum(sum(each.joules[1:]) for each in ledgers), ledgers[0], asked, together)


def _split(
    ledgers: Sequence[Ledger],
    stages: Sequence[int],
    wholes: Sequence[int],
    buckets: Sequence[int],
    seconds: Sequence[float],
    idle_watts: float | None,
) -> tuple[list[Split], dict[int, Split]]:
    """Return the energy of each phase on all devices, without and with its parts."""
    joules = {}
    for each in ledgers:
        each.fit()
        joules[each.device.id] = each.joules + [0.0] * (len(buckets) + 1 - len(each.joules))
    alone: dict[int, dict[tuple[str, str], Split]] = {i: {} for i in range(len(buckets))}
    together: dict[int, dict[tuple[str, str], Split]] = {whole: {} for whole in dict.fromkeys(wholes)}
    for stage in dict.fromkeys(stages):
        own = [i for i in together if stages[i] == stage]
        parts = [[i, *(j for j, whole in enumerate(wholes) if whole == i != j)] for i in own]
        for each in ledgers:
            name, used = (each.device.backend, each.device.id), joules[each.device.id]
            times, energies = ([[values[buckets[i]] for i in part] for part in parts] for values in (seconds, used))
            found = each.split(stage, [[buckets[i] for i in part] for part in parts], times, energies, idle_watts)
            for part, (whole, splits) in zip(parts, found, strict=True):
                together[part[0]][name] = whole
                for i, split in zip(part, splits, strict=True):
                    alone[i][name] = split
    return [combine(alone[i]) for i in range(len(buckets))], {i: combine(each) for i, each in together.items()}
