"""Build the parts of a run record from plain values; pure."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from msgspec.structs import replace

from ml_energy_callbacks.metrics import JOULES_PER_KWH, Basis, Phase, add_up, all_named, known_sum, ratio
from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.record.schema import (
    BesideRecord,
    DeviceRecord,
    FlopsRecord,
    LatencyRecord,
    PhaseRecord,
    ProcessRecord,
    StageRecord,
    TotalRecord,
)

_ONE_STEP = (
    "The framework fetches its data inside the step, so that waiting and computing cannot be separated "
    "(data that come batch by batch can be passed through the callback's watch())."
)

_COINCIDENCE = "Refreshes of the counter and batches coincide: all refreshes see the same mix of phases."

_Value = TypeVar("_Value")


class Figure(Protocol):
    """What is recorded of a carbon intensity beside its value; see :class:`CarbonRecord`."""

    @property
    def source(self) -> str: ...  # noqa: D102 - as there
    @property
    def data_year(self) -> int | None: ...  # noqa: D102
    @property
    def assumed(self) -> bool: ...  # noqa: D102
    @property
    def basis(self) -> Basis: ...  # noqa: D102
    @property
    def relative_uncertainty(self) -> float: ...  # noqa: D102
    @property
    def renewable_share(self) -> float | None: ...  # noqa: D102
    @property
    def low_carbon_share(self) -> float | None: ...  # noqa: D102


def mixture(each: Sequence[Figure], energies: Sequence[float], grams: Sequence[float]) -> dict[str, Any]:
    """Return the description of several carbon intensities together, each with its energy and its grams."""
    bases = [one.basis for one in each]
    return {
        "source": all_named(one.source for one in each) or "",
        "data_year": _common([one.data_year for one in each]),
        "assumed": any(one.assumed for one in each),
        "basis": "unknown" if "unknown" in bases else _common(bases) or "mixed",
        "relative_uncertainty": weighted_mean([one.relative_uncertainty for one in each], grams),
        "renewable_share": _known_mean([one.renewable_share for one in each], energies),
        "low_carbon_share": _known_mean([one.low_carbon_share for one in each], energies),
    }


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the mean of values by their weights; where those are all zero, the last value."""
    if len(set(values)) == 1 or not sum(weights) > 0:
        return values[-1]
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def _known_mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [value for value in values if value is not None]
    return weighted_mean(known, weights) if len(known) == len(values) else None


def _common(values: Sequence[_Value]) -> _Value | None:
    """Return what all values are, or None."""
    return values[0] if all(value == values[0] for value in values) else None


def process_record(devices: Sequence[BesideRecord], unknown: Mapping[str, str]) -> ProcessRecord:
    """Return the job's share from its shares of devices, and why others' are not known."""
    read = {device.id: device.joules for device in devices if device.joules is not None}
    return ProcessRecord(
        joules=sum(read.values()) if read else None,
        relative_uncertainty=relative_uncertainty(read, devices),
        stages=add_up([device.stages for device in devices]),
        devices=list(devices),
        unknown=dict(unknown),
    )


def stage_record(
    *,
    seconds: float,
    batches: int,
    samples: int | None,
    compiled: int,
    tokens: int | None,
    compiled_tokens: int,
    sampled_joules: float | None,
    above_idle_joules: float | None,
    latency: LatencyRecord | None,
    phases: dict[str, PhaseRecord],
    devices: dict[str, float],
    records: Iterable[DeviceRecord],
    co2e_grams: float | None,
    cost: float | None,
    flops: FlopsRecord | None,
    substages: dict[str, StageRecord] | None = None,
) -> StageRecord:
    """Return a stage's record with what follows from the rest of it.

    Args:
        seconds: Time spent.
        batches: Number of batches.
        samples: Number of samples, or None.
        compiled: Those of batches during compilation.
        tokens: Number of tokens, or None.
        compiled_tokens: Those of batches during compilation.
        sampled_joules: Energy of the others, in J, or None.
        above_idle_joules: The same without the idle power of the devices, or None.
        latency: Durations of batches, or None.
        phases: By name.
        devices: Joules by device id.
        records: The records of these devices.
        co2e_grams: Emissions in g CO2e, or None.
        cost: Cost of the electricity, or None.
        flops: Its FLOPs, of which the energy and the rate follow here, or None.
        substages: The sub-stages that it includes, by name; None for none.
    """
    total = sum(devices.values()) if devices else None
    known = [device for device in records if device.id in devices]
    sampled = None if samples is None else samples - compiled
    counted = None if tokens is None else tokens - compiled_tokens
    if total is None:
        sampled_joules = above_idle_joules = None
    per_sample = ratio(sampled_joules, sampled)
    return StageRecord(
        joules=total,
        seconds=seconds,
        batches=batches,
        samples=samples,
        joules_per_sample=per_sample,
        joules_per_sample_above_idle=ratio(above_idle_joules, sampled),
        tokens=tokens,
        joules_per_token=ratio(sampled_joules, counted),
        latency=latency,
        mean_watts=ratio(total, seconds),
        relative_uncertainty=relative_uncertainty(devices, known),
        provenance=_provenance(known),
        phases=phases,
        devices=devices,
        co2e_grams=co2e_grams,
        cost=cost,
        compile_samples=compiled,
        compile_tokens=compiled_tokens,
        sampled_joules=sampled_joules,
        above_idle_joules=above_idle_joules,
        flops=flops and _with_ratios(flops, per_sample, sampled, seconds - _seconds_of(phases.get("compile"))),
        substages=substages or {},
    )


def _with_ratios(flops: FlopsRecord, joules: float | None, samples: int | None, seconds: float) -> FlopsRecord:
    """Return FLOPs with their energy and their rate, from the energy of a sample in J, and the samples and s of the stage."""
    return replace(
        flops,
        joules_per_flop=ratio(joules, flops.per_sample),
        flops_per_second=ratio(flops.per_sample * samples, max(0.0, round(seconds, 9))) if samples else None,
    )


def _seconds_of(phase: PhaseRecord | None) -> float:
    return 0.0 if phase is None else phase.seconds or 0.0


def add_flops(parts: Sequence[tuple[FlopsRecord | None, int | None]]) -> FlopsRecord | None:
    """Return the FLOPs of several parts of a stage together; None if there are none, or those of one are unknown.

    Args:
        parts: The FLOPs and the number of samples of each part that had batches; None where one is unknown.
    """
    known = [flops for flops, _ in parts if flops is not None]
    if not known or len(known) < len(parts):
        return None
    total = known_sum([flops.total for flops in known])
    each = {flops.per_sample for flops in known}
    per_sample = each.pop() if len(each) == 1 else ratio(total, known_sum([samples for _, samples in parts]))
    method = all_named(flops.method for flops in known)
    return None if per_sample is None or method is None else FlopsRecord(total=total, per_sample=per_sample, method=method)


class StageEnergy(NamedTuple):
    """Energy of a stage, or of a window of it, in J.

    Attributes:
        joules: All of it; None where no device was read.
        sampled_joules: What went into samples, compiling left out, or None.
        above_idle_joules: The same without the idle power of the devices, or None.
    """

    joules: float | None
    sampled_joules: float | None
    above_idle_joules: float | None


def stage_energy(
    joules: Mapping[Phase, float] | None,
    seconds: Mapping[Phase, float],
    devices: Collection[str],
    idle_watts: Mapping[str, float],
) -> StageEnergy:
    """Return the energy of a stage.

    Args:
        joules: Energy of each phase in J; None where no device was read.
        seconds: Time of each phase in s.
        devices: Ids of the devices that were read.
        idle_watts: Idle power of each device in W by its id, where that was measured.
    """
    if joules is None:
        return StageEnergy(None, None, None)
    total = sum(joules.values())
    sampled = total - joules["compile"]  # the time of a batch during compilation says nothing about its samples
    idle = _idle_joules(devices, idle_watts, sum(seconds.values()) - seconds["compile"])
    return StageEnergy(total, sampled, None if idle is None else sampled - idle)


def recorded_energy(stage: StageRecord) -> StageEnergy:
    """Return the energy of a stage from its record; that of an earlier release has ratios in the place of sums."""
    if stage.sampled_joules is not None:
        return StageEnergy(stage.joules, stage.sampled_joules, stage.above_idle_joules)
    sampled = (stage.samples or 0) - stage.compile_samples
    per_sample, above_idle = stage.joules_per_sample, stage.joules_per_sample_above_idle
    above = None if above_idle is None else above_idle * sampled
    if per_sample is not None and stage.samples is not None:
        return StageEnergy(stage.joules, per_sample * sampled, above)
    joules, compiling = stage.joules or 0.0, stage.phases.get("compile")
    if compiling is None or not stage.seconds:
        return StageEnergy(stage.joules, joules, above)
    by_time = joules * (compiling.seconds or 0.0) / stage.seconds
    return StageEnergy(stage.joules, joules - (by_time if compiling.joules is None else compiling.joules), above)


def _idle_joules(devices: Collection[str], idle_watts: Mapping[str, float], seconds: float) -> float | None:
    """Return the idle energy of the devices in J; None where the idle power of one of them was not measured."""
    if not devices or any(name not in idle_watts for name in devices):
        return None
    return sum(idle_watts[name] for name in devices) * seconds


def explain_single_step(phases: dict[str, PhaseRecord]) -> dict[str, PhaseRecord]:
    """Give the reason for unknown computing and waiting where the framework showed both as one for some of the time.

    Any of that time's energy may belong to either of them.
    """
    step = phases.get("step")
    if step is None:
        return phases
    for name in ("compute", "data_wait"):
        own = phases.get(name) or PhaseRecord(
            joules=0.0, seconds=0.0, relative_uncertainty=None, low_joules=0.0, high_joules=0.0
        )
        included = own.seconds is None  # in the sum of several records
        high = own.high_joules if included else known_sum([own.high_joules, step.high_joules])
        phases[name] = PhaseRecord(
            joules=None,
            seconds=None,
            relative_uncertainty=None,
            reason=_ONE_STEP,
            low_joules=None if high is None else own.low_joules,
            high_joules=high,
        )
    return phases


def coincidence(low: float | None, high: float | None) -> str:
    """Return the reason of a phase that is unknown as refreshes and batches coincide, with its interval in J if it is known."""
    between = "" if low is None or high is None else f" The phase used between {low:,.1f} and {high:,.1f} J."
    return f"{_COINCIDENCE}{between}"


def sum_reason(reason: str | None, low: float | None, high: float | None) -> str | None:
    """Return the reason of a sum from that of one of its parts, with the interval of the sum in J."""
    return coincidence(low, high) if reason is not None and reason.startswith(_COINCIDENCE) else reason


def relative_uncertainty(joules: Mapping[str, float], devices: Iterable[DeviceRecord]) -> float | None:
    """Return the uncertainty of a sum over devices, as a share of it; None where there is no energy, or one's is unknown.

    Args:
        joules: Energy of each device in J, by its id.
        devices: The devices; those without energy add nothing.
    """
    total, known = sum(joules.values()), [each for each in devices if each.id in joules]
    if any(each.relative_uncertainty is None for each in known):
        return None
    errors = errors_by_backend((each.backend, joules[each.id] * (each.relative_uncertainty or 0.0)) for each in known)
    return math.hypot(*errors.values()) / total if total > 0 else None


def errors_by_backend(errors: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the half-widths of the 95 % intervals of the backends' energies, in J.

    Devices of one backend err together, so their errors add up; those of different backends are independent.

    Args:
        errors: Backend of each device, and half-width of the interval of the device's energy in J.
    """
    return add_up([{backend: error} for backend, error in errors])


def _provenance(devices: Collection[DeviceRecord]) -> Provenance | None:
    if not devices:
        return None
    return "estimated" if any(device.provenance == "estimated" for device in devices) else "measured"


def total_record(
    stages: Mapping[str, StageRecord], devices: Sequence[DeviceRecord], currency: str, *, incomplete: bool
) -> TotalRecord:
    """Return the sum of the stages; what is unknown of one is unknown of all.

    Args:
        stages: By name.
        devices: The devices whose energy it is.
        currency: Currency code of the cost.
        incomplete: Whether other devices, or processes, belong to the run whose energy is missing.
    """
    known = {device.id: device.joules for device in devices if device.joules is not None}
    joules = known_sum([stage.joules for stage in stages.values()]) if known else None
    return TotalRecord(
        joules=joules,
        kwh=None if joules is None else joules / JOULES_PER_KWH,
        seconds=sum(stage.seconds for stage in stages.values()),
        relative_uncertainty=None if joules is None else relative_uncertainty(known, devices),
        provenance=None if joules is None else _provenance([device for device in devices if device.id in known]),
        co2e_grams=known_sum([stage.co2e_grams for stage in stages.values()]) if known else None,
        cost=known_sum([stage.cost for stage in stages.values()]) if known else None,
        currency=currency,
        lower_bound=incomplete or len(known) < len(devices),
    )
