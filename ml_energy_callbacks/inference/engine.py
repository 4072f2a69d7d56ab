"""The engine of both measurements: blocks of calls in shuffled rounds, until each interval is narrow enough."""

import itertools
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

from ml_energy_callbacks import safe_text
from ml_energy_callbacks.attribution.quantiles import Quantiles
from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference.models import is_out_of_memory
from ml_energy_callbacks.inference.results import Interval
from ml_energy_callbacks.inference.student import interval
from ml_energy_callbacks.meter.points import Window

Call = Callable[[], int]
"""Predicts once, waits until the prediction is complete, and returns the number of samples."""

MIN_REPEATS = 8
"""With fewer repeats an interval is often narrow by chance, and stopping then is wrong too often."""

_QUICKEST_S = 0.1
"""Shorter refresh periods are treated as this one."""
_REST_S = 0.2
# In refreshes of the slowest device:
_EDGE = 1.5
"""The same work continues for this long before and after a block, so that a refresh at an edge contains nothing else."""
_BLOCK = 5.0
_IDLE_BLOCK = 2.5
_LONGEST_TAIL = 10.0
"""A device that has not refreshed by then is regarded as silent."""
_IDLE_BLOCKS = 8
_IDLE_SHARE = 0.25
"""Idle power is measured for at most this share of the time."""
_WARM_UP = 0
"""The round that compiles, fills caches and shows what fails; it is not counted."""


@dataclass(frozen=True, slots=True)
class Block:
    """Many calls, or a rest, measured as one.

    Attributes:
        joules: Energy in J; None if it is unknown.
        seconds: Length in s.
        samples: Number of samples predicted.
        latencies_ns: Duration of each call in ns.
    """

    joules: float | None
    seconds: float
    samples: int = 0
    latencies_ns: Sequence[int] = ()


class Bench(Protocol):
    """Measures calls; tests replace it with one whose time is virtual."""

    def now(self) -> float:
        """Return the time in s."""

    def measure_idle(self, longest: float) -> Sequence[Block]:
        """Wait for at most this many seconds, and measure idle power in blocks."""

    def measure_calls(self, call: Call) -> Block:
        """Rest, and measure a block of calls."""


class Meter(Protocol):
    """The part of :class:`EnergyMeter` that the bench uses."""

    def window(self) -> AbstractContextManager[Window]:
        """Measure the body."""


class MeterBench:
    """Measures blocks with the windows of a running meter."""

    def __init__(
        self,
        meter: Meter,
        refresh_s: Callable[[], float],
        clock: Clock = monotonic_clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Use this meter.

        Args:
            meter: The meter.
            refresh_s: Returns the refresh period of its slowest device in s, as far as it is known.
            clock: The meter's clock.
            sleep: Waits for this many seconds of the clock.
        """
        self._meter = meter
        self._refresh_s = refresh_s
        self._clock = clock
        self._sleep = sleep

    @property
    def _period(self) -> float:
        return max(_QUICKEST_S, self._refresh_s())

    def now(self) -> float:
        """Return the time in s."""
        return self._clock() / NS_PER_S

    def measure_idle(self, longest: float) -> Sequence[Block]:
        """Wait, and measure idle power in eight blocks, or in as many as fit."""
        self._sleep(_EDGE * self._period)
        length = _IDLE_BLOCK * self._period
        windows: list[tuple[Window, float]] = []
        for _ in range(max(1, min(_IDLE_BLOCKS, int(longest / length)))):
            with self._meter.window() as window:
                begun = self.now()
                self._sleep(min(length, longest))
                windows.append((window, self.now() - begun))
        self._wait_for_energy(windows[-1][0], lambda: self._sleep(self._period / 10))
        return [Block(window.joules, seconds) for window, seconds in windows]

    def measure_calls(self, call: Call) -> Block:
        """Rest, and measure calls for five refreshes (at least one call), between more calls of the same kind."""
        period = self._period
        self._sleep(_REST_S)
        begun = self.now()
        call()
        while self.now() < begun + _EDGE * period:
            call()
        samples, latencies = 0, []
        with self._meter.window() as window:
            begun_ns = called_ns = self._clock()
            while called_ns - begun_ns < _BLOCK * period * NS_PER_S:
                samples += call()
                before_ns, called_ns = called_ns, self._clock()
                latencies.append(called_ns - before_ns)
        self._wait_for_energy(window, call)
        return Block(window.joules, (called_ns - begun_ns) / NS_PER_S, samples, latencies)

    def _wait_for_energy(self, window: Window, meanwhile: Callable[[], object]) -> None:
        ended = self.now()
        while _is_expected(window) and window.joules is None and self.now() < ended + _LONGEST_TAIL * self._period:
            meanwhile()


def _is_expected(window: Window) -> bool:
    return window.end is not None and bool(window.end.expected)


@dataclass(frozen=True, slots=True)
class Case:
    """A batch size or a model that is measured in the same rounds as others.

    Attributes:
        name: Its name.
        prepare: Returns the call; it runs before each block, is not measured, and may raise, like the call.
    """

    name: str
    prepare: Callable[[], Call]


@dataclass(slots=True)
class Series:
    """The blocks of one case.

    Attributes:
        case: The case.
        blocks: The blocks by round.
        latencies: Latencies of all calls, in ns.
        error: The error that ended the measurement, or None.
        too_large: Whether the error is a lack of memory.
        decided: Whether the interval of its mean is as narrow as requested.
    """

    case: Case
    blocks: dict[int, Block] = field(default_factory=dict)
    latencies: Quantiles = field(default_factory=Quantiles)
    error: str | None = None
    too_large: bool = False
    decided: bool = False

    @property
    def joules_per_sample(self) -> dict[int, float]:
        """Energy of a sample in J by round, if it is known."""
        return {i: block.joules / block.samples for i, block in self.blocks.items() if block.joules is not None}

    @property
    def seconds_per_sample(self) -> dict[int, float]:
        """Time of a sample in s by round."""
        return {i: block.seconds / block.samples for i, block in self.blocks.items()}

    def add_block(self, number: int, block: Block, relative_width: float) -> None:
        """Add the block of a round, and decide whether the measurement is complete."""
        self.blocks[number] = replace(block, latencies_ns=())  # there may be very many
        for latency in block.latencies_ns:
            self.latencies.add(latency)
        values = self.joules_per_sample or self.seconds_per_sample
        found = interval(list(values.values()))
        if found is not None and found.half_width is not None and len(values) >= MIN_REPEATS:
            self.decided = found.half_width <= relative_width * found.mean

    def record_failure(self, error: Exception) -> None:
        """End the measurement with this exception; earlier blocks are kept."""
        self.error = safe_text.message(f"{type(error).__name__}: {error}".rstrip(": "))
        self.too_large = is_out_of_memory(error)


@dataclass(frozen=True, slots=True)
class Measured:
    """All measurements.

    Attributes:
        idle_watts: Power before the first call in W; None if it is unknown.
        series: One for each case, in the given order.
        seconds: Duration in s.
    """

    idle_watts: Interval | None
    series: Sequence[Series]
    seconds: float


def measure_cases(
    cases: Iterable[Case],
    bench: Bench,
    *,
    relative_width: float,
    max_seconds: float,
    seed: int,
    progress: Callable[[Measured], None],
) -> Measured:
    """Measure idle power, warm up each case, and measure the undecided cases in shuffled rounds.

    A case is decided once the 95 % interval of its mean energy per sample (or time per sample, if no device reports energy) is
    as narrow as requested, after at least 8 repeats: a fixed-width sequential interval as in Chow and Robbins (1965).

    Args:
        cases: The cases to measure.
        bench: Measures the calls.
        relative_width: Requested half-width of the interval, as a share of the mean.
        max_seconds: No block starts after this time in s.
        seed: Seed of the order within the rounds.
        progress: Called with the measurements so far after each block.

    Raises:
        ConfigurationError: A call reports that it cannot be measured at all.
    """
    begun = bench.now()
    shuffle = random.Random(seed).shuffle  # noqa: S311 - an order, not a secret
    rests = bench.measure_idle(_IDLE_SHARE * max_seconds)
    idle_watts = interval([rest.joules / rest.seconds for rest in rests if rest.joules is not None])
    series = [Series(case) for case in cases]
    for number in itertools.count(_WARM_UP):
        undecided = [one for one in series if one.error is None and not one.decided]
        shuffle(undecided)
        for one in undecided:
            if bench.now() - begun >= max_seconds:
                return Measured(idle_watts, series, bench.now() - begun)
            try:
                block = bench.measure_calls(one.case.prepare())
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001 - the user's function; the others continue
                one.record_failure(error)
            else:
                if number != _WARM_UP:
                    one.add_block(number, block, relative_width)
            progress(Measured(idle_watts, series, bench.now() - begun))
        if not undecided:
            break
    return Measured(idle_watts, series, bench.now() - begun)
