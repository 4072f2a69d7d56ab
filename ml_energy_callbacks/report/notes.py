"""Notes on a run: what its figures include, what is missing, how emissions came about, latencies, and the run's warnings."""

import re
from collections.abc import Iterator, Sequence

from ml_energy_callbacks.carbon.rates import NO_LOCATION
from ml_energy_callbacks.metrics import STAGES
from ml_energy_callbacks.record.schema import (
    CarbonRecord,
    DeviceRecord,
    FlopsRecord,
    LatencyRecord,
    PhaseRecord,
    RunRecord,
    StageRecord,
    every_stage,
)
from ml_energy_callbacks.report.emissions import emission_lines
from ml_energy_callbacks.report.hints import find_hints
from ml_energy_callbacks.report.quantities import percent, quantity, scaled

_MOST_HINTS = 3

_LONG_WAIT = 0.02
"""Share of the run's time: if processes waited longer for each other, the report says so."""

_QUANTILES = ((0.5, 5), (0.95, 20), (0.99, 100))
"""Quantiles of latencies, each with the batches from which on it is shown: one has to be above it, and five for a median."""

_BASES = {
    "lifecycle": "lifecycle emissions",
    "direct": "direct emissions of power stations",
    "mixed": "lifecycle and direct factors mixed",
}

_NUMBER = re.compile(r"\d[\d,.]*")


def hint_lines(record: RunRecord) -> Iterator[str]:
    """Yield the hints that would save most."""
    for hint in find_hints(record)[:_MOST_HINTS]:
        yield f"Hint: {hint.text}"


def note_lines(record: RunRecord) -> Iterator[str]:
    """Yield what has to be known to read the figures of a run, without what its headline says."""
    if record.lower_bound and record.total.joules is not None:
        yield "≥: lower bound, because the energy of a device or a process of the run is missing."
    yield from _waiting_notes(record)
    yield from _apart_notes(record)
    yield from emission_lines(record)
    yield from _site_notes(record.carbon)
    for unit in ("sample", "token"):
        compiled = sum(getattr(stage, f"compile_{unit}s") for stage in record.stages.values())
        if compiled:
            yield f"J/{unit} excludes compilation ({compiled:,} {unit}s)."
    for name, stage in rows_of(record):
        if stage.flops is not None:
            yield f"FLOPs of {name}: {flops_text(stage.flops)}."
    for warning in last_warnings(record):
        yield f"Note: {warning}"


def last_warnings(record: RunRecord) -> Sequence[str]:
    """Return the warnings of a run without the one that the headline has; of several that differ in figures, the last.

    A gap that grows from one part of a run to the next is one warning about its device, not one for each part.
    """
    names = sorted((device.id for device in _devices_of(record)), key=len, reverse=True)
    named = re.compile("|".join(map(re.escape, names))) if names else None
    last: dict[tuple[str, ...], str] = {}
    for warning in record.warnings:
        if warning.startswith(NO_LOCATION):
            continue
        about = tuple(named.findall(warning)) if named is not None else ()
        key = (*about, _NUMBER.sub("#", named.sub("", warning))) if named is not None and about else (warning,)
        last[key] = warning
    return list(last.values())


def _devices_of(record: RunRecord) -> Iterator[DeviceRecord]:
    yield from (*record.devices, *record.whole_machine, *(record.process.devices if record.process is not None else ()))


def stages_of(record: RunRecord) -> Iterator[tuple[str, StageRecord]]:
    """Yield the stages of a run in the order in which they are shown."""
    for name in STAGES:
        if name in record.stages:
            yield name, record.stages[name]


def rows_of(record: RunRecord) -> Iterator[tuple[str, StageRecord]]:
    """Yield the stages in the same order, each followed by the sub-stages that it includes as ``<stage>/<name>``."""
    yield from every_stage(dict(stages_of(record)))


def phases_of(stage: StageRecord) -> Iterator[tuple[str, PhaseRecord]]:
    """Yield the phases of a stage, each followed by the parts of its batches that it includes as ``<phase>/<part>``."""
    for name, phase in stage.phases.items():
        yield name, phase
        for own, part in phase.parts.items():
            yield f"{name}/{own}", part


def indented(name: str, by: str) -> str:
    """Return the name of a row: of a sub-stage, or of a part of a phase, its own name after an indent."""
    whole, _, own = name.partition("/")
    return f"{by}{own}" if own else whole


def reasons_of(record: RunRecord) -> dict[str, list[str]]:
    """Return why phases, or parts of batches, are not known, each with their names."""
    reasons: dict[str, list[str]] = {}
    for stage_name, stage in rows_of(record):
        for name, phase in phases_of(stage):
            named = f"{stage_name} {name.replace('/', ' ')}"
            if phase.reason is not None:
                reasons.setdefault(phase.reason, []).append(named)
            if phase.parts_reason is not None:
                reasons.setdefault(phase.parts_reason, []).append(f"parts of {named}")
    return reasons


def detail_lines(record: RunRecord) -> Iterator[str]:
    """Yield where the figures come from: devices, latencies, carbon intensity, and why phases are not known."""
    yield from _device_notes(record)
    for name, stage in rows_of(record):
        if stage.latency is not None and (found := latency_text(stage.latency)):
            yield f"Latency of a batch of {name}: {found}."
    yield from _carbon_notes(record.carbon)
    for reason, names in reasons_of(record).items():
        yield f"{', '.join(names)}: {reason}"
    if any(_exceeds(phase, stage) for _, stage in rows_of(record) for _, phase in phases_of(stage)):
        yield (
            "A range may exceed the energy of its stage: a stage begins and ends between two refreshes, and how much of their "
            "energy belongs to it is not known exactly."
        )
    for reason in () if record.process is None else record.process.unknown.values():
        yield f"Share of this job unknown: {reason}"


def _device_notes(record: RunRecord) -> Iterator[str]:
    """Yield what the devices are and how their energy comes about; those that are alike once."""
    alike: dict[str, list[str]] = {}
    for device in _devices_of(record):
        alike.setdefault(f"{device.name}. {device.note}" if device.note else f"{device.name}.", []).append(device.id)
    for text, names in alike.items():
        yield f"{names[0]}: {text}" if len(names) == 1 else f"{len(names):,} devices: {text}"


def latency_text(latency: LatencyRecord) -> str:
    """Return the quantiles for which there are enough batches; empty if there are for none."""
    values = (latency.p50_s, latency.p95_s, latency.p99_s)
    shown = [
        f"p{share * 100:.0f} {scaled(value, 's')}"
        for (share, least), value in zip(_QUANTILES, values, strict=True)
        if latency.batches >= least
    ]
    return f"{', '.join(shown)} ({latency.batches:,} batches)" if shown else ""


def flops_text(flops: FlopsRecord) -> str:
    """Return the FLOPs of a stage and of a sample, with how they are known."""
    whole = "" if flops.total is None else f"{scaled(flops.total, 'FLOP')}, "
    return f"{whole}{scaled(flops.per_sample, 'FLOP/sample')} ({flops.method})"


def _exceeds(phase: PhaseRecord, stage: StageRecord) -> bool:
    """Return whether the range of a phase that is shown reaches above the energy of its stage."""
    most, whole = phase.high_joules, stage.joules
    if phase.joules is not None or most is None or whole is None:
        return False
    return most > whole and quantity(most) != quantity(whole)


def _waiting_notes(record: RunRecord) -> Iterator[str]:
    """Yield a note on the process that the others waited for."""
    ranks = record.ranks
    if len(ranks) < 2:  # noqa: PLR2004 - a single process waits for no other
        return
    slowest, fastest = (pick(ranks, key=lambda rank: rank.barrier_seconds) for pick in (min, max))
    if fastest.barrier_seconds - slowest.barrier_seconds > _LONG_WAIT * record.total.seconds:
        waited = [rank.barrier_joules for rank in ranks if rank is not slowest and rank.barrier_joules is not None]
        used = f" and used {scaled(sum(waited), 'J')} meanwhile" if waited else ""
        yield (
            f"Rank {slowest.rank} was the last to reach the ends of epochs: the others waited up to "
            f"{quantity(fastest.barrier_seconds, 's')}{used}."
        )


def _apart_notes(record: RunRecord) -> Iterator[str]:
    """Yield the figures that stand beside the total: meters of the whole machine, and the job's share."""
    for device in record.whole_machine:
        yield f"Whole machine by {device.id}, not part of the total: {scaled(device.joules, 'J')}."
    if record.process is not None and record.process.joules is not None:
        doubt = record.process.relative_uncertainty
        interval = "" if doubt is None else f" ±{percent(doubt)}"
        yield f"Share of this job, part of the total: {scaled(record.process.joules, 'J')}{interval}, estimated."


def _carbon_notes(carbon: CarbonRecord) -> Iterator[str]:
    """Yield notes on the carbon intensity and on what emissions and cost include."""
    place = carbon.location or "no location set"
    year = f", {carbon.data_year}" if carbon.data_year else ""
    basis = "" if carbon.basis == "unknown" else f"; {_BASES[carbon.basis]}"
    yield f"Carbon: {quantity(carbon.intensity_g_per_kwh, 'g CO2e/kWh')} ({place}; {carbon.source}{year}{basis})."
    values = {interval.intensity_g_per_kwh for interval in carbon.intervals}
    if len(values) > 1:
        low, high = quantity(min(values), "g"), quantity(max(values), "g")
        yield f"The intensity varied between {low} and {high}; the mean is weighted by energy."
    if carbon.note is not None:
        yield carbon.note
    if carbon.renewable_share is not None and carbon.low_carbon_share is not None:
        renewable, low = percent(carbon.renewable_share), percent(carbon.low_carbon_share)
        yield f"The electricity there is {renewable} renewable and {low} low-carbon (nuclear power included)."


def _site_notes(carbon: CarbonRecord) -> Iterator[str]:
    """Yield what the options about the site add to the figures, or leave out of them."""
    if carbon.water_litres is not None:
        yield f"Water: {quantity(carbon.water_litres, 'litres')} at {quantity(carbon.wue, 'litres per kWh')}."
    if carbon.embodied_grams is not None:
        yield f"Embodied emissions, not included above: {quantity(carbon.embodied_grams, 'g CO2e')} for the time of this run."
    if carbon.offset_grams is not None:
        yield f"Offsets of {quantity(carbon.offset_grams, 'g CO2e')} are not subtracted."
    if carbon.pue != 1:
        yield f"Grams and cost include the data centre's PUE of {carbon.pue:g}; joules do not."
