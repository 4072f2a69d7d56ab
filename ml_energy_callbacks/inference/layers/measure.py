"""Measures the layers of a step: their times, and the energy of steps in which one of them runs more often."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from statistics import fmean

from ml_energy_callbacks import safe_text
from ml_energy_callbacks.exceptions import EnergyError
from ml_energy_callbacks.inference.engine import Bench
from ml_energy_callbacks.inference.layers.calls import Call
from ml_energy_callbacks.inference.layers.fit import Fit, Row
from ml_energy_callbacks.inference.layers.flops import count_flops
from ml_energy_callbacks.inference.layers.stopwatch import LayerTimes, Stopwatch, Timing
from ml_energy_callbacks.inference.layers.tree import Layer
from ml_energy_callbacks.inference.models import wait_for_outputs
from ml_energy_callbacks.meter.unforeseen import pass_users_error

LEAST_SHARE = 0.005
"""Layers that take a smaller share of the step are not repeated."""

_WARM_UP_STEPS = 3
_STEPS = 20
_TIMING_SHARE = 0.1
"""At most this share of the time is spent on timing steps, but two are timed in any case."""
_LEAST_STEPS = 2
_STEP_TIMES = (2.0, 3.0, 4.0)
"""A layer is repeated until it takes this many times as long as the step, which one is drawn for each block."""
_LEAST_ROUNDS = 4
_SMALL = 0.02
"""Layers with a smaller share of the energy are as exact as one with this share."""


@dataclass(slots=True)
class Measured:
    """All measurements so far.

    Attributes:
        layers: The layers.
        calls: Their calls in a step.
        steps: Number of timed steps whose times are used.
        seconds: Mean time of a step in s.
        forward_seconds: The same of its forward pass.
        times: Sums over these steps by layer.
        rows: The blocks whose energy is known.
        blocks: Number of all blocks.
        failed: Why a layer could not be repeated, by its index.
        step_flops: Operations of a step, forward and backward; None where they are not known.
        flops: The same by layer.
        complete: Whether the intervals are as narrow as requested.
        duration: Time of the whole measurement in s.
    """

    layers: Sequence[Layer]
    calls: Sequence[Sequence[Call]]
    steps: int = 0
    seconds: float = 0.0
    forward_seconds: float = 0.0
    times: Sequence[LayerTimes] = ()
    rows: list[Row] = field(default_factory=list)
    blocks: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    step_flops: tuple[int | None, int | None] = (None, None)
    flops: Sequence[tuple[int | None, int | None]] = ()
    complete: bool = False
    duration: float = 0.0

    def layer_seconds(self, index: int) -> float:
        """Return the time of a layer in a step, in s."""
        times = self.times[index]
        return (times.forward + times.backward) / self.steps

    @property
    def shares(self) -> Sequence[float]:
        """Share of each layer in the time of a step."""
        return [self.layer_seconds(i) / self.seconds if self.seconds else 0.0 for i in range(len(self.layers))]

    @property
    def parents(self) -> Sequence[int | None]:
        """Index of the layer that each layer is a part of, or None."""
        return [layer.parent for layer in self.layers]


def measure_layers(
    step: Call,
    measured: Measured,
    timing: Timing,
    bench: Bench,
    *,
    relative_width: float,
    max_seconds: float,
    seed: int,
    progress: Callable[[Measured], None],
) -> None:
    """Time steps, and then measure rounds of blocks: one of plain steps, and one for each layer, which repeats it.

    Args:
        step: The step.
        measured: The layers and their calls; what is measured is added.
        timing: How they are timed.
        bench: Measures energy.
        relative_width: Requested half-width of the interval of a layer's energy, as a share of it.
        max_seconds: No block starts after this time in s.
        seed: Seed of the order within the rounds and of the repeats.
        progress: Called after each block.

    Raises:
        EnergyError: The layers cannot be timed.
    """
    begun = bench.now()
    for _ in range(_WARM_UP_STEPS):
        step()
    measured.step_flops = count_flops([step])
    measured.flops = [count_flops(calls) for calls in measured.calls]
    _time_steps(step, measured, timing, lambda: bench.now() - begun < _TIMING_SHARE * max_seconds)
    rng = random.Random(seed)  # noqa: S311 - a design, not a secret
    repeated = [i for i, share in enumerate(measured.shares) if share >= LEAST_SHARE and measured.calls[i]]
    bench.measure_calls(_repeating(step, measured, {}))  # to warm up; it is not counted
    for number in itertools.count(1):
        order = [None, None, *(i for i in repeated if i not in measured.failed)]  # all of the others are compared with it
        rng.shuffle(order)
        for i in order:
            measured.duration = bench.now() - begun
            if measured.duration >= max_seconds:
                return
            _measure_block(step, measured, i, rng.choice(_STEP_TIMES), bench)
            measured.duration = bench.now() - begun
            progress(measured)
        if not measured.rows:  # no device reports energy
            return
        measured.complete = number >= _LEAST_ROUNDS and _is_decided(Fit(measured.parents, measured.rows), relative_width)
        if measured.complete:
            return


def _time_steps(step: Call, measured: Measured, timing: Timing, has_time: Callable[[], bool]) -> None:
    """Time steps, and keep the faster half of them, which other work on the machine delayed least.

    Raises:
        EnergyError: The layers cannot be timed.
    """
    timed: list[tuple[float, float, Sequence[LayerTimes]]] = []
    for number in range(_STEPS):
        if number >= _LEAST_STEPS and not has_time():
            break
        stopwatch = Stopwatch(measured.layers, timing)
        try:
            stopwatch.start()
            start = timing.stamp()
            outputs = step.forward()
            end = timing.stamp()
            step.run_backward(outputs)
            stopwatch.stop()
        finally:
            stopwatch.cancel()
        wait_for_outputs(None)
        stopwatch.resolve()
        if not stopwatch.steps:
            msg = f"The layers cannot be timed ({stopwatch.error})."
            raise EnergyError(msg) from stopwatch.error
        timed.append((stopwatch.seconds, timing.seconds(start, end), stopwatch.times))
    kept = sorted(timed, key=lambda each: each[0])[: (len(timed) + 1) // 2]
    measured.steps = len(kept)
    measured.seconds = fmean(seconds for seconds, _, _ in kept)
    measured.forward_seconds = fmean(seconds for _, seconds, _ in kept)
    measured.times = [_sum(times) for times in zip(*(each[2] for each in kept), strict=True)]


def _sum(times: Sequence[LayerTimes]) -> LayerTimes:
    return LayerTimes(*(sum(column) for column in zip(*map(astuple, times), strict=True)))


def _measure_block(step: Call, measured: Measured, index: int | None, step_times: float, bench: Bench) -> None:
    """Measure a block of steps that repeat a layer, or of plain ones."""
    repeats = {} if index is None else {index: max(1, round(step_times / measured.shares[index]))}
    try:
        block = bench.measure_calls(_repeating(step, measured, repeats))
    except Exception as error:
        pass_users_error(error)
        if index is None:
            raise
        measured.failed[index] = safe_text.message(f"{type(error).__name__}: {error}".rstrip(": "))
    else:
        measured.blocks += 1
        if block.joules is not None:
            measured.rows.append(Row(block.joules / block.samples, repeats))


def _repeating(step: Call, measured: Measured, repeats: Mapping[int, int]) -> Callable[[], int]:
    """Return a call that runs a step, and its layers again as often as it says."""
    extra = [call for i, times in repeats.items() for _ in range(times) for call in measured.calls[i]]

    def call() -> int:
        step()
        for again in extra:
            again()
        wait_for_outputs(None)
        return 1

    return call


def _is_decided(fit: Fit, relative_width: float) -> bool:
    if not fit.known:
        return False
    least = _SMALL * fit.whole().joules
    found = [fit.layer(i) for i in fit.fitted]
    return all(each.half_width <= relative_width * max(each.joules, least) for each in found)
