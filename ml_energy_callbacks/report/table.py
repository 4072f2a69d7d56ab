"""A run record as tables for a terminal."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ml_energy_callbacks.metrics import JOULES_PER_WH, STAGES
from ml_energy_callbacks.record.schema import CarbonRecord, DeviceRecord, PhaseRecord, RunRecord, StageRecord
from ml_energy_callbacks.report.emissions import emission_lines
from ml_energy_callbacks.report.hints import find_hints
from ml_energy_callbacks.report.quantities import UNKNOWN, at_least, quantity, uncertainty
from ml_energy_callbacks.safe_text import in_texts, printable

_SHOWN_STATUS = {
    "running": "still running or killed",
    "completed": "completed",
    "stopped": "stopped",
    "failed": "failed",
}

_MOST_HINTS = 3

_LONG_WAIT = 0.02
"""Share of the run's time: if processes waited longer for each other, the report says so."""

_BASES = {
    "lifecycle": "lifecycle emissions",
    "direct": "direct emissions of power stations",
    "mixed": "lifecycle and direct factors mixed",
}


def _hint_lines(record: RunRecord) -> Iterator[str]:
    for hint in find_hints(record)[:_MOST_HINTS]:
        yield f"Hint: {hint.text}"


def render(record: RunRecord) -> Group:
    """Return the tables of stages, phases and devices, followed by notes."""
    record = in_texts(record, printable)
    status = _SHOWN_STATUS[record.run.status]
    reason = f" ({record.run.reason})" if record.run.reason else ""
    head = Text(f"Run {record.run.id[:8]}, {record.run.framework}, {record.run.started_at}: {status}{reason}")
    parts: list[RenderableType] = [head, _stage_table(record), _phase_table(record), _device_table("Devices", record.devices)]
    if record.whole_machine:
        parts.append(_device_table("Whole machine (not part of the total)", record.whole_machine))
    if record.process is not None:
        parts.append(_device_table("Share of this job (part of the total)", record.process.devices))
    if len(record.nodes) > 1:
        parts.append(_node_table(record))
    if record.ranks:
        parts.append(_rank_table(record))
    return Group(*parts, *(Text(line) for line in _notes(record)))


def _stages(record: RunRecord) -> Iterator[tuple[str, StageRecord]]:
    for name in STAGES:
        if name in record.stages:
            yield name, record.stages[name]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for i, column in enumerate(columns):
        left = i == 0 or column in ("provenance", "device")
        table.add_column(column, justify="left" if left else "right", no_wrap=i == 0 or column == "provenance", overflow="fold")
    return table


def _stage_table(record: RunRecord) -> Table:
    money = record.total.cost is not None
    idle = any(stage.joules_per_sample_above_idle is not None for stage in record.stages.values())
    table = _table(
        "Stages",
        *("stage", "time s", "joules", "share", "J per\nsample"),
        *(("above\nidle",) if idle else ()),
        *("Wh/1000\nsamples", "gCO2e"),
        *((record.total.currency,) if money else ()),
        "provenance",
    )
    for name, stage in _stages(record):
        per_sample = stage.joules_per_sample
        table.add_row(
            name,
            quantity(stage.seconds),
            quantity(stage.joules),
            _share(stage.joules, record.total.joules),
            quantity(per_sample),
            *((quantity(stage.joules_per_sample_above_idle),) if idle else ()),
            quantity(None if per_sample is None else per_sample / JOULES_PER_WH * 1000),
            quantity(stage.co2e_grams),
            *((quantity(stage.cost),) if money else ()),
            uncertainty(stage.provenance, stage.relative_uncertainty),
        )
    total = record.total
    table.add_section()
    table.add_row(
        "total",
        quantity(total.seconds),
        at_least(quantity(total.joules), lower_bound=record.lower_bound),
        _share(total.joules, total.joules),
        *([""] * (3 if idle else 2)),
        at_least(quantity(total.co2e_grams), lower_bound=record.lower_bound),
        *((at_least(quantity(total.cost), lower_bound=record.lower_bound),) if money else ()),
        uncertainty(total.provenance, total.relative_uncertainty),
    )
    return table


def _phase_joules(phase: PhaseRecord) -> str:
    """Return the energy of a phase, or the range that it is in."""
    if phase.joules is None and phase.low_joules is not None and phase.high_joules is not None:
        return f"{quantity(phase.low_joules)} to {quantity(phase.high_joules)}"
    return quantity(phase.joules)


def _phase_table(record: RunRecord) -> Table:
    table = _table("Phases", "stage", "phase", "seconds", "joules", "uncertainty\nof the split")
    for name, stage in _stages(record):
        for phase_name, phase in stage.phases.items():
            if phase.seconds is None:
                continue  # the notes give the reason
            split = UNKNOWN if phase.relative_uncertainty is None else f"±{phase.relative_uncertainty * 100:.2g} %"
            table.add_row(name, phase_name, quantity(phase.seconds), _phase_joules(phase), split)
    return table


def _exceeds(phase: PhaseRecord, stage: StageRecord) -> bool:
    """Return whether the range of a phase that is shown reaches above the energy of its stage."""
    most, whole = phase.high_joules, stage.joules
    if phase.joules is not None or most is None or whole is None:
        return False
    return most > whole and quantity(most) != quantity(whole)


def _device_table(title: str, devices: Sequence[DeviceRecord]) -> Table:
    table = _table(title, "id", "device", "joules", "missing s", "provenance")
    for device in devices:
        table.add_row(
            device.id,
            device.name if device.note is None else f"{device.name}: {device.note}",
            quantity(device.joules),
            quantity(device.missing_s),
            uncertainty(device.provenance, device.relative_uncertainty),
        )
    return table


def _node_table(record: RunRecord) -> Table:
    table = _table("Hosts", "host", "ranks", "joules", "share")
    for node in record.nodes:
        ranks = ", ".join(map(str, node.ranks))
        table.add_row(node.hostname, ranks, quantity(node.joules), _share(node.joules, record.total.joules))
    return table


def _rank_table(record: RunRecord) -> Table:
    table = _table(
        "Processes",
        "rank",
        "host",
        "samples",
        "joules",
        "share",
        "batches\ns",
        "data wait\ns",
        "epoch ends\ns",
        "epoch ends\nJ",
    )
    for rank in record.ranks:
        table.add_row(
            str(rank.rank),
            record.nodes[rank.node].hostname,
            quantity(rank.samples),
            quantity(rank.joules),
            _share(rank.joules, record.total.joules),
            quantity(rank.compute_seconds),
            quantity(rank.data_wait_seconds),
            quantity(rank.barrier_seconds),
            quantity(rank.barrier_joules),
        )
    return table


def _job_notes(record: RunRecord) -> Iterator[str]:
    """Return notes on processes that reported no data, and on the process that the others waited for."""
    missing, ranks = record.run.missing_ranks, record.ranks
    if missing:
        *others, last = map(str, missing)
        names = f"Ranks {', '.join(others)} and {last}" if others else f"Rank {last}"
        yield f"{names} of {record.run.world_size} reported no data; {'their' if others else 'its'} energy is not included."
    if len(ranks) < 2:  # noqa: PLR2004 - a single process waits for no other
        return
    slowest, fastest = (pick(ranks, key=lambda rank: rank.barrier_seconds) for pick in (min, max))
    if fastest.barrier_seconds - slowest.barrier_seconds > _LONG_WAIT * record.total.seconds:
        waited = [rank.barrier_joules for rank in ranks if rank is not slowest and rank.barrier_joules is not None]
        used = f" and used {quantity(sum(waited), 'J')} meanwhile" if waited else ""
        yield (
            f"Rank {slowest.rank} was the last to reach the ends of epochs: the others waited up to "
            f"{quantity(fastest.barrier_seconds, 's')}{used}."
        )


def _share(part: float | None, whole: float | None) -> str:
    return UNKNOWN if part is None or not whole else f"{part / whole:.0%}".replace("%", " %")


def _carbon_notes(carbon: CarbonRecord) -> Iterator[str]:
    """Return notes on the carbon intensity and on what emissions and cost include."""
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
        renewable, low = _share(carbon.renewable_share, 1), _share(carbon.low_carbon_share, 1)
        yield f"The electricity there is {renewable} renewable and {low} low-carbon (nuclear power included)."
    if carbon.water_litres is not None:
        yield f"Water: {quantity(carbon.water_litres, 'litres')} at {quantity(carbon.wue, 'litres per kWh')}."
    if carbon.embodied_grams is not None:
        yield f"Embodied emissions, not included above: {quantity(carbon.embodied_grams, 'g CO2e')} for the time of this run."
    if carbon.offset_grams is not None:
        yield f"Offsets of {quantity(carbon.offset_grams, 'g CO2e')} are not subtracted."
    if carbon.pue != 1:
        yield f"Grams and cost include the data centre's PUE of {carbon.pue:g}; joules do not."


def _latency_notes(record: RunRecord) -> Iterator[str]:
    for name, stage in _stages(record):
        if (latency := stage.latency) is not None:
            p50, p95, p99 = (quantity(value * 1000, "ms") for value in (latency.p50_s, latency.p95_s, latency.p99_s))
            yield f"Latency of a batch of {name}: p50 {p50}, p95 {p95}, p99 {p99}."


def _notes(record: RunRecord) -> Iterator[str]:
    if record.lower_bound and record.total.joules is not None:
        yield "≥: lower bound, because the energy of a device or a process of the run is missing."
    yield from _job_notes(record)
    yield from _latency_notes(record)
    yield from _carbon_notes(record.carbon)
    yield from emission_lines(record)
    yield from _hint_lines(record)
    reasons: dict[str, list[str]] = {}
    for name, stage in _stages(record):
        for phase_name, phase in stage.phases.items():
            if phase.reason is not None:
                reasons.setdefault(phase.reason, []).append(f"{name} {phase_name}")
    for reason, names in reasons.items():
        yield f"{', '.join(names)}: {reason}"
    if any(_exceeds(phase, stage) for _, stage in _stages(record) for phase in stage.phases.values()):
        yield (
            "A range may exceed its stage: stages begin and end between two refreshes, whose energy is not known to belong to "
            "one of them alone."
        )
    compiled = sum(stage.compile_samples for stage in record.stages.values())
    if compiled:
        yield f"J/sample excludes compilation ({compiled:,} samples)."
    for reason in () if record.process is None else record.process.unknown.values():
        yield f"Share of this job unknown: {reason}"
    for warning in record.warnings:
        yield f"Note: {warning}"
