"""The engine of both measurements: blocks of calls, in shuffled rounds, until each mean is known well enough."""

import itertools
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

from ml_energy_callbacks.attribution.quantiles import Quantiles
from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference.models import out_of_memory
from ml_energy_callbacks.inference.results import Interval
from ml_energy_callbacks.inference.student import interval
from ml_energy_callbacks.meter.points import Window

Call = Callable[[], int]
"""Predicts once, waits for the end of it, and returns the number of samples."""

MIN_REPEATS = 8
"""With few, an interval looks narrow by luck, and one that stops then is wrong too often."""

_QUICKEST_S = 0.1
"""Devices that refresh more often than this are treated as if they did not."""
_REST_S = 0.2
# In refreshes of the slowest device:
_EDGE = 1.5
"""Before and after a block the same work goes on for so long: then a refresh that straddles an edge holds nothing else."""
_BLOCK = 5.0
_IDLE_BLOCK = 2.5
_LONGEST_TAIL = 10.0
"""A device that has not refreshed by then is taken for silent."""
_IDLE_BLOCKS = 8
_IDLE_SHARE = 0.25
"""Idle power takes this share of the time at most."""
_WARM_UP = 0
"""The round that compiles, fills caches and tells what cannot work; it counts nowhere."""


@dataclass(frozen=True, slots=True)
class Block:
    """Many calls, or a rest, measured as one.

    Attributes:
        joules: Energy in J; None where it is not known.
        seconds: Length in s.
        samples: Number of samples predicted.
        latencies_ns: How long each call took, in ns.
    """

    joules: float | None
    seconds: float
    samples: int = 0
    latencies_ns: Sequence[int] = ()


class Bench(Protocol):
    """Where calls are measured; in the test suite's, time is virtual."""

    def now(self) -> float:
        """Return the time in s."""

    def idle(self, longest: float) -> Sequence[Block]:
        """Do nothing, for so many seconds at most, and measure it in blocks."""

    def run(self, call: Call) -> Block:
        """Cool down, and measure a block of calls."""


class Meter(Protocol):
    """What an :class:`EnergyMeter` is to the bench."""

    def window(self) -> AbstractContextManager[Window]:
        """Measure the body."""


class MeterBench:
    """Blocks by the windows of a running meter."""

    def __init__(
        self,
        meter: Meter,
        refresh_s: Callable[[], float],
        clock: Clock = monotonic_clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Measure with this meter.

        Args:
            meter: The meter.
            refresh_s: Returns the period in s, as far as it is known by now, at which its slowest device refreshes.
            clock: The meter's clock.
            sleep: Lets so many seconds of it pass.
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

    def idle(self, longest: float) -> Sequence[Block]:
        """Do nothing, and measure it in eight blocks, or in as many as fit."""
        self._sleep(_EDGE * self._period)
        length = _IDLE_BLOCK * self._period
        windows: list[tuple[Window, float]] = []
        for _ in range(max(1, min(_IDLE_BLOCKS, int(longest / length)))):
            with self._meter.window() as window:
                begun = self.now()
                self._sleep(min(length, longest))
                windows.append((window, self.now() - begun))
        self._wait_for(windows[-1][0], lambda: self._sleep(self._period / 10))
        return [Block(window.joules, seconds) for window, seconds in windows]

    def run(self, call: Call) -> Block:
        """Cool down, and measure the calls of five refreshes, at least one, amid more of the same."""
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
        self._wait_for(window, call)
        return Block(window.joules, (called_ns - begun_ns) / NS_PER_S, samples, latencies)

    def _wait_for(self, window: Window, meanwhile: Callable[[], object]) -> None:
        ended = self.now()
        while _expected(window) and window.joules is None and self.now() < ended + _LONGEST_TAIL * self._period:
            meanwhile()


def _expected(window: Window) -> bool:
    return window.end is not None and bool(window.end.expected)


@dataclass(frozen=True, slots=True)
class Case:
    """One of those that are measured against each other.

    Attributes:
        name: How it is called.
        prepare: Returns the call; it is asked before each block, outside of what is measured, and may fail as the call may.
    """

    name: str
    prepare: Callable[[], Call]


@dataclass(slots=True)
class Series:
    """The blocks of one case.

    Attributes:
        case: The case.
        blocks: By round.
        latencies: Of all calls, in ns.
        error: What ended it, or None.
        too_large: Whether that was a lack of memory.
        decided: Whether its mean is known to the asked width.
    """

    case: Case
    blocks: dict[int, Block] = field(default_factory=dict)
    latencies: Quantiles = field(default_factory=Quantiles)
    error: str | None = None
    too_large: bool = False
    decided: bool = False

    @property
    def joules_per_sample(self) -> dict[int, float]:
        """Energy of a sample in J by round, where it is known."""
        return {i: block.joules / block.samples for i, block in self.blocks.items() if block.joules is not None}

    @property
    def seconds_per_sample(self) -> dict[int, float]:
        """Time of a sample in s by round."""
        return {i: block.seconds / block.samples for i, block in self.blocks.items()}

    def take(self, number: int, block: Block, relative_width: float) -> None:
        """Add the block of a round, and decide whether it was the last one."""
        self.blocks[number] = replace(block, latencies_ns=())  # there may be very many
        for latency in block.latencies_ns:
            self.latencies.add(latency)
        values = self.joules_per_sample or self.seconds_per_sample
        found = interval(list(values.values()))
        if found is not None and found.half_width is not None and len(values) >= MIN_REPEATS:
            self.decided = found.half_width <= relative_width * found.mean

    def fail(self, error: Exception) -> None:
        """End with this exception; what was measured before stays."""
        self.error = f"{type(error).__name__}: {error}".rstrip(": ")
        self.too_large = out_of_memory(error)


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured.

    Attributes:
        idle_watts: Power before the first call in W; None where it is not known.
        series: One for each case, in the order that was given.
        seconds: How long it took.
    """

    idle_watts: Interval | None
    series: Sequence[Series]
    seconds: float


def measure(
    cases: Iterable[Case],
    bench: Bench,
    *,
    relative_width: float,
    max_seconds: float,
    seed: int,
    progress: Callable[[Measured], None],
) -> Measured:
    """Measure idle power, warm each case up, and visit the undecided ones in shuffled rounds.

    A case is decided once the 95 % interval of its mean energy of a sample (of its time, where no device tells energy) is as
    narrow as asked, after at least 8 repeats: a sequential interval of fixed width after Chow and Robbins (1965).

    Args:
        cases: What to measure.
        bench: Where.
        relative_width: Half-width of the interval, as a share of the mean.
        max_seconds: No block begins after so many seconds.
        seed: Of the order within the rounds.
        progress: Is told what is known after each block.

    Raises:
        ConfigurationError: A call says that it cannot be measured at all.
    """
    begun = bench.now()
    shuffle = random.Random(seed).shuffle  # noqa: S311 - an order, no secret
    rests = bench.idle(_IDLE_SHARE * max_seconds)
    idle_watts = interval([rest.joules / rest.seconds for rest in rests if rest.joules is not None])
    series = [Series(case) for case in cases]
    for number in itertools.count(_WARM_UP):
        undecided = [one for one in series if one.error is None and not one.decided]
        shuffle(undecided)
        for one in undecided:
            if bench.now() - begun >= max_seconds:
                return Measured(idle_watts, series, bench.now() - begun)
            try:
                block = bench.run(one.case.prepare())
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001 - the user's function; the others go on
                one.fail(error)
            else:
                if number != _WARM_UP:
                    one.take(number, block, relative_width)
            progress(Measured(idle_watts, series, bench.now() - begun))
        if not undecided:
            break
    return Measured(idle_watts, series, bench.now() - begun)
