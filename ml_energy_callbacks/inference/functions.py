"""Energy of functions that run in turns, with that of the parts that they mark."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import fsum
from typing import Final

from ml_energy_callbacks.exceptions import ConfigurationError, EnergyError
from ml_energy_callbacks.inference.engine import MIN_REPEATS, Bench, Call, Case, Series, measure_cases
from ml_energy_callbacks.inference.growth import NOTHING, Measurement, PartCost
from ml_energy_callbacks.inference.models import predictor, wait_for_outputs
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.metrics import Stage, is_stage, known_sum, ratio
from ml_energy_callbacks.record.schema import PhaseRecord, RunRecord, StageRecord
from ml_energy_callbacks.report.quantities import quantity

Function = Callable[[], object]
"""Does the work once; what it returns is waited for."""

_STAGES: Final[tuple[Stage, ...]] = ("predict", "test")
"""The stage of each function: each may have parts of its own."""

REST: Final = "rest"
"""Name of what is left of a function beside its parts."""


class Marks:
    """Where a function marks its parts."""

    def __init__(self) -> None:
        """Mark nothing until a function is measured."""
        self._meter: EnergyMeter | None = None
        self._stage: Stage = _STAGES[0]

    @property
    def active(self) -> bool:
        """Whether a call of a function is being measured."""
        return self._meter is not None

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Run the body as a part of the function that runs; outside of a measurement, run it alone.

        Args:
            name: At most 64 letters, digits, ``_``, ``-`` or ``.``.

        Raises:
            ConfigurationError: It has no such name.
        """
        if name == REST or not is_stage(f"{self._stage}/{name}"):
            msg = f"The part {name!r} has no usable name; use letters, digits, _, - and ., at most 64, and not {REST!r}."
            raise ConfigurationError(msg)
        if self._meter is None:
            yield
            return
        with self._meter.stage(f"{self._stage}/{name}"):
            yield

    @contextlib.contextmanager
    def measuring(self, meter: EnergyMeter, stage: Stage) -> Iterator[None]:
        """Run the body as one call of the function with this stage."""
        self._meter, self._stage = meter, stage
        try:
            with meter.stage(stage), meter.batch(samples=1):
                yield
        finally:
            self._meter = None


def measure_functions(
    functions: Mapping[str, Function],
    marks: Marks,
    meter: EnergyMeter,
    bench: Bench,
    *,
    relative_width: float,
    max_seconds: float,
) -> Measurement:
    """Measure functions in shuffled rounds, so that drift affects all of them equally.

    Args:
        functions: One or two, by name.
        marks: Where they mark their parts.
        meter: A meter that runs, and ends with this.
        bench: Measures blocks of calls with the meter's windows.
        relative_width: Requested half-width of the 95 % interval of joules per call, as a share of it.
        max_seconds: No block starts after this time in s.

    Raises:
        ConfigurationError: A function returns before it has done its work, or marks a part without a usable name.
        EnergyError: A function raised an error.
    """
    stages = dict(zip(functions, _STAGES, strict=False))

    def call(work: Callable[[None], object], stage: Stage) -> int:
        with marks.measuring(meter, stage):
            wait_for_outputs(work(None))
        return 1

    def case(name: str, function: Function) -> Case:
        ready: Call = partial(call, predictor(name, lambda _: function()), stages[name])
        return Case(name, lambda: ready)

    measured = measure_cases(
        [case(*each) for each in functions.items()],
        bench,
        relative_width=relative_width,
        max_seconds=max_seconds,
        seed=0,
        progress=lambda _: None,
    )
    for one in measured.series:
        if one.error is not None:
            msg = f"{one.case.name} cannot be measured: it raised {one.error}."
            raise EnergyError(msg)
    meter.stop()
    record = meter.record
    return Measurement(
        joules={one.case.name: one.joules_per_sample for one in measured.series},
        calls={name: cost for name, stage in stages.items() if (cost := _call_of(record.stages.get(stage))) is not None},
        parts={name: _parts(record.stages.get(stage)) for name, stage in stages.items()},
        notes=[*_notes(measured.series, record, relative_width), *record.warnings],
        devices=[device.id for device in record.devices],
        provenance=record.total.provenance,
    )


def _notes(every: Sequence[Series], record: RunRecord, relative_width: float) -> Iterator[str]:
    if not record.devices:
        yield "No device reports its energy; ml-energy doctor says why."
    if any(not one.decided and (one.joules_per_sample or not one.blocks) for one in every):
        yield (
            f"The time ended before ±{quantity(100 * relative_width, '%')} was reached in {MIN_REPEATS} repeats or more; raise "
            "--energy-seconds, or reduce other load on the machine."
        )


def _call_of(stage: StageRecord | None) -> PartCost | None:
    """Return the cost of a call, from all calls; None where none ended."""
    return None if stage is None or not stage.batches else _cost(stage.phases.get("compute"), stage.batches)


def _parts(stage: StageRecord | None) -> dict[str, PartCost]:
    """Return the cost of each part of a call, and of what is left of it."""
    whole = _call_of(stage)
    if stage is None or whole is None or not stage.substages:
        return {}
    parts = {name: _cost(part.phases.get("compute"), stage.batches) for name, part in stage.substages.items()}
    return {**parts, REST: _without(whole, list(parts.values()))}


def _cost(phase: PhaseRecord | None, calls: int) -> PartCost:
    """Return the cost of a call, of which all calls had a phase."""
    if phase is None:
        return NOTHING
    return PartCost(
        seconds=(phase.seconds or 0.0) / calls,
        joules=ratio(phase.joules, calls),
        low_joules=ratio(phase.low_joules, calls),
        high_joules=ratio(phase.high_joules, calls),
    )


def _without(whole: PartCost, parts: Sequence[PartCost]) -> PartCost:
    """Return what is left of the whole; its bounds are those of parts whose errors do not cancel."""

    def left(of_whole: float | None, of_parts: Sequence[float | None]) -> float | None:
        inside = known_sum(of_parts)
        return None if of_whole is None or inside is None else max(0.0, of_whole - inside)

    return PartCost(
        seconds=max(0.0, whole.seconds - fsum(part.seconds for part in parts)),
        joules=left(whole.joules, [part.joules for part in parts]),
        low_joules=left(whole.low_joules, [part.high_joules for part in parts]),
        high_joules=left(whole.high_joules, [part.low_joules for part in parts]),
    )
