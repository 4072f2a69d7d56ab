"""The page of one run."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from xml.etree.ElementTree import Element

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.metrics import JOULES_PER_WH
from ml_energy_callbacks.record.schema import CarbonRecord, DeviceRecord, RunRecord, StageRecord, TotalRecord
from ml_energy_callbacks.report.drawing import node
from ml_energy_callbacks.report.emissions import carbon_range
from ml_energy_callbacks.report.export import Format, export
from ml_energy_callbacks.report.headline import Line, headline
from ml_energy_callbacks.report.hints import find_hints
from ml_energy_callbacks.report.notes import indented, note_lines, phases_of, reasons_of, rows_of
from ml_energy_callbacks.report.page.document import Section, carried, document
from ml_energy_callbacks.report.page.embedded import embed
from ml_energy_callbacks.report.page.tables import Column, amounts, certainties, facts, marked, table, texts, times
from ml_energy_callbacks.report.pictures import (
    energy_line,
    epoch_lines,
    metric_lines,
    power_areas,
    stage_bars,
    words,
)
from ml_energy_callbacks.report.quantities import (
    UNKNOWN,
    column_with_ranges,
    money,
    money_column,
    percent,
    quantity,
    scaled,
    scaled_range,
    shares,
    uncertainty,
)
from ml_energy_callbacks.safe_text import in_texts, printable

_MOST_RECORD_BYTES = 120_000
_MOST_ROWS = 100
"""Rows of the table of epochs; more of them are in the record."""


def run_page(record: RunRecord, path: Path | str | None = None) -> str:
    """Return the page of a run.

    Args:
        record: The run.
        path: Path or URL of its record; None for where it was written to.
    """
    json, complete = embed(record, _MOST_RECORD_BYTES)
    lines = headline(record, path)
    record = in_texts(record, printable)
    name = title_of(record)
    header = [node("h1", name), node("p", _subtitle(record), class_="subtitle"), badges(record), headline_list(lines)]
    sections = [
        Section("where", "Where it went", [stage_bars(record), stage_table(record), *phase_table(record)]),
        Section("time", "Over time", [power_areas(record), energy_line(record)]),
        Section("epochs", "By epoch", [*_epochs(record)]),
        Section("hints", "What could be saved", [hint_list(record)]),
        Section("carbon", "Carbon and money", [*_carbon(record)]),
        Section("devices", "Devices", [*device_tables(record)]),
        Section("ranks", "Hosts and processes", [*_job(record)]),
        Section("repeat", "How to repeat it", [_versions(record)]),
        Section("cite", "Cite it", [*_citations(record)]),
        Section("notes", "Notes", [*_notes(record)]),
        Section("record", "The record", [*_record(complete=complete)]),
    ]
    return document(f"{name}: energy of a run", header, sections, [carried("run-record", json)])


def title_of(record: RunRecord) -> str:
    """Return what a run is called: its model, or else its framework."""
    return record.run.model or ("run" if record.run.framework == "none" else record.run.framework)


def _subtitle(record: RunRecord) -> str:
    run = record.run
    started = datetime.fromisoformat(run.started_at)
    ended = None if run.ended_at is None else datetime.fromisoformat(run.ended_at)
    until = (
        "" if ended is None else f" to {ended:%H:%M:%S}" if ended.date() == started.date() else f" to {ended:%Y-%m-%d %H:%M:%S}"
    )
    hosts = f" on {', '.join(run.hostnames)}" if run.hostnames else ""
    return f"{run.framework}, {started:%Y-%m-%d %H:%M:%S}{until} (UTC{started:%z}), run {run.id[:8]}{hosts}"


def badges(record: RunRecord) -> Element:
    """Return what a reader has to know before the figures: how the run ended, and how far they can be trusted."""
    run, total, carbon = record.run, record.total, record.carbon
    status = "running or killed" if run.status == "running" else run.status
    found = [
        (status, "good" if run.status == "completed" else "warn"),
        (uncertainty(total.provenance, total.relative_uncertainty), "good" if total.provenance == "measured" else "warn"),
    ]
    if record.lower_bound:
        found.append(("lower bound", "warn"))
    if carbon.assumed and total.co2e_grams is not None:
        found.append(("location assumed", "warn"))
    if run.world_size > 1:
        found.append((f"{run.world_size:,} processes", "plain"))
    found += [(f"{name}: {text}", "plain") for name, text in run.tags.items()]
    return node("ul", (node("li", text, class_=f"badge {kind}") for text, kind in found), class_="badges", aria_label="Status")


def headline_list(lines: Sequence[Line]) -> Element:
    """Return the headline as names and texts."""
    rows = (
        node("div", node("dt", line.label), node("dd", (node("span", cell.strip()) for cell in line.cells))) for line in lines
    )
    return node("dl", rows, class_="headline")


def stage_table(record: RunRecord) -> Element:
    """Return the table of stages, each with its sub-stages, with the stages' sum."""
    stages, total = [*rows_of(record)], record.total
    every: list[StageRecord | TotalRecord] = [*(stage for _, stage in stages), total]
    least = [*[False] * len(stages), record.lower_bound]
    columns = [
        texts("Stage", [*(words(indented(name, "\u2003")) for name, _ in stages), "total"]),
        times("Time", [each.seconds for each in every]),
        amounts("Energy", [each.joules for each in every], "J", least),
        texts("Share", shares([each.joules for each in every], total.joules), numeric=True),
        amounts("Energy of a sample", [*(stage.joules_per_sample for _, stage in stages), None], "J"),
        *_token_columns(stages),
        *_flops_columns(stages),
        amounts("Mean power", [*(stage.mean_watts for _, stage in stages), _mean_watts(record)], "W"),
        amounts("Emissions", [each.co2e_grams for each in every], "g CO2e", least),
    ]
    if total.cost is not None:
        costs = marked(money_column([each.cost for each in every]), least)
        columns.append(texts(f"Cost, {total.currency}", costs, numeric=True))
    columns.append(certainties((each.provenance, each.relative_uncertainty) for each in every))
    return table("Energy by stage", columns, total=len(stages))


def _token_columns(stages: Sequence[tuple[str, StageRecord]]) -> Iterator[Column]:
    """Yield the columns of tokens, where those of a stage are known; those of the total are not shown."""
    if any(stage.joules_per_token is not None for _, stage in stages):
        yield amounts("Energy of a token", [*(stage.joules_per_token for _, stage in stages), None], "J")
        yield texts("Tokens per J", [*(quantity(stage.tokens_per_joule) for _, stage in stages), ""], numeric=True)


def _flops_columns(stages: Sequence[tuple[str, StageRecord]]) -> Iterator[Column]:
    """Yield the columns of FLOPs, where those of a stage are known; those of the total are not shown."""
    flops = [*(stage.flops for _, stage in stages), None]
    if any(each is not None for each in flops):
        yield amounts("Energy of a FLOP", [None if each is None else each.joules_per_flop for each in flops], "J/FLOP")
        yield amounts("Rate", [None if each is None else each.flops_per_second for each in flops], "FLOP/s")


def _mean_watts(record: RunRecord) -> float | None:
    total = record.total
    return None if total.joules is None or not total.seconds else total.joules / total.seconds


def phase_table(record: RunRecord) -> Iterator[Element]:
    """Yield the table of phases, each with the parts of its batches, and why the energy of some is unknown."""
    rows = [(name, phase_name, phase, stage) for name, stage in rows_of(record) for phase_name, phase in phases_of(stage)]
    names = [
        f"\u2003{own}" if own else f"{name}, {phase}" for name, (phase, _, own) in ((n, p.partition("/")) for n, p, *_ in rows)
    ]
    phases = [phase for _, _, phase, _ in rows]
    unit, joules, ranges = column_with_ranges([phase.joules for phase in phases], [phase.interval for phase in phases], "J")
    yield table(
        "Energy by phase",
        [
            texts("Stage and phase", [*map(words, names)]),
            times("Time", [phase.seconds for phase in phases]),
            texts(f"Energy,\u00a0{unit}", joules, numeric=True),
            texts("Share", [*chain(*(shares([phase.joules], stage.joules) for _, _, phase, stage in rows))], numeric=True),
            texts(f"95 % interval,\u00a0{unit}", ranges, numeric=True),
        ],
    )
    reasons = reasons_of(record)
    if reasons:
        items = (node("li", f"{words(', '.join(which))}: {reason}") for reason, which in reasons.items())
        yield node("ul", items, class_="reasons")


def epoch_pictures(record: RunRecord) -> Iterator[Element]:
    """Yield the pictures of epochs: energy of a sample, and the metric."""
    if record.epochs:
        yield epoch_lines(record)
        metric = metric_lines(record)
        if metric is not None:
            yield metric


def _epochs(record: RunRecord) -> Iterator[Element]:
    yield from epoch_pictures(record)
    if not record.epochs:
        return
    shown = record.epochs[-_MOST_ROWS:]
    names = list(dict.fromkeys(name for epoch in shown for name in epoch.metrics))[:6]
    first = len(record.epochs) - len(shown)
    found = table(
        f"Epochs{f', the last {_MOST_ROWS}' if first else ''}",
        [
            texts("Epoch", [f"{words(epoch.stage)} {_numbers(epoch.index, epoch.epochs)}" for epoch in shown]),
            times("Start", [epoch.started_s for epoch in shown]),
            times("Time", [epoch.seconds for epoch in shown]),
            amounts("Energy", [epoch.joules for epoch in shown], "J"),
            amounts("Energy of a sample", [_each(epoch.joules, epoch.samples) for epoch in shown], "J"),
            *(
                [amounts("Energy of a token", [_each(epoch.joules, epoch.tokens) for epoch in shown], "J")]
                if any(epoch.tokens for epoch in shown)
                else []
            ),
            *(texts(name, [_metric(epoch.metrics.get(name)) for epoch in shown], numeric=True) for name in names),
        ],
    )
    yield node("details", node("summary", "Epochs as a table"), found)


def _numbers(index: int, count: int) -> str:
    return str(index) if count == 1 else f"{index} to {index + count - 1}"


def _each(joules: float | None, number: int | None) -> float | None:
    return None if joules is None or not number else joules / number


def _metric(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4g}"


def hint_list(record: RunRecord) -> Element:
    """Return the hints, each with what it would save."""
    hints = find_hints(record)
    if not hints:
        return node("p", "The measurements show nothing that could be saved with certainty.")
    return node("ul", (node("li", hint.text) for hint in hints), class_="hints")


def _carbon(record: RunRecord) -> Iterator[Element]:
    total, carbon = record.total, record.carbon
    limits = carbon_range(record)
    between = None if limits is None else scaled_range(*limits, "g CO2e")
    if limits is not None and record.lower_bound:
        between = f"at least {scaled(limits[0], 'g CO2e')}"
    least = "at least " if record.lower_bound else ""
    year = f", {carbon.data_year}" if carbon.data_year else ""
    varied = {interval.intensity_g_per_kwh for interval in carbon.intervals}
    yield facts(
        [
            ("Emissions", None if total.co2e_grams is None else f"{least}{scaled(total.co2e_grams, 'g CO2e')}"),
            ("Range", between),
            ("Carbon intensity", f"{quantity(carbon.intensity_g_per_kwh, 'g CO2e/kWh')}{_basis(carbon)}"),
            ("Varied", f"{quantity(min(varied))} to {quantity(max(varied), 'g CO2e/kWh')}" if len(varied) > 1 else None),
            ("Location", carbon.location or ("not set: world average" if carbon.assumed else "not set")),
            ("Source", f"{carbon.source}{year}"),
            ("Cost", None if total.cost is None else f"{least}{money(total.cost, total.currency)}"),
            ("Energy", None if total.joules is None else f"{least}{scaled(total.joules / JOULES_PER_WH, 'Wh')}"),
            ("PUE", None if carbon.pue == 1 else f"{carbon.pue:g}, included in emissions and cost, not in energy"),
            ("Renewable", None if carbon.renewable_share is None else percent(carbon.renewable_share)),
            ("Low-carbon", None if carbon.low_carbon_share is None else percent(carbon.low_carbon_share)),
            ("Water", None if carbon.water_litres is None else scaled(carbon.water_litres, "l")),
            ("Embodied", None if carbon.embodied_grams is None else f"{scaled(carbon.embodied_grams, 'g CO2e')}, not included"),
            ("Offsets", None if carbon.offset_grams is None else f"{scaled(carbon.offset_grams, 'g CO2e')}, not subtracted"),
        ]
    )
    if carbon.note is not None:
        yield node("p", carbon.note)


def _basis(carbon: CarbonRecord) -> str:
    return "" if carbon.basis == "unknown" else f" ({carbon.basis} emissions)"


_METHODS = {"energy_counter": "energy counter", "power_integration": "power readings, integrated", "model": "power model"}


def device_tables(record: RunRecord) -> Iterator[Element]:
    """Yield the tables of devices: those of the total, those of the whole machine, and the job's share of them."""
    if record.devices:
        yield _device_table("Devices of the total", record.devices, record.total.joules)
    if record.whole_machine:
        yield _device_table("Meters of the whole machine, which are not part of the total", record.whole_machine, None)
    if record.process is not None and record.process.devices:
        yield _device_table("Share of this job, which is part of the total", record.process.devices, record.total.joules)


def _device_table(caption: str, devices: Sequence[DeviceRecord], total: float | None) -> Element:
    return table(
        caption,
        [
            texts("Device", [device.id for device in devices]),
            texts("Name", [device.name if device.note is None else f"{device.name}: {device.note}" for device in devices]),
            amounts("Energy", [device.joules for device in devices], "J"),
            texts("Share", shares([device.joules for device in devices], total), numeric=True),
            texts("Method", [_METHODS[device.method] for device in devices]),
            certainties((device.provenance, device.relative_uncertainty) for device in devices),
            amounts("Refresh", [device.update_period_s or None for device in devices], "s"),
            amounts("Not read", [device.missing_s for device in devices], "s"),
        ],
    )


def _job(record: RunRecord) -> Iterator[Element]:
    if len(record.nodes) > 1:
        nodes, total = record.nodes, record.total.joules
        yield table(
            "Hosts",
            [
                texts("Host", [node.hostname for node in nodes]),
                texts("Ranks", [", ".join(map(str, node.ranks)) for node in nodes]),
                amounts("Energy", [node.joules for node in nodes], "J"),
                texts("Share", shares([node.joules for node in nodes], total), numeric=True),
            ],
        )
    if record.ranks:
        ranks = record.ranks
        yield table(
            "Processes",
            [
                texts("Rank", [str(rank.rank) for rank in ranks]),
                texts("Host", [record.nodes[rank.node].hostname for rank in ranks]),
                texts("Status", [rank.status for rank in ranks]),
                texts("Samples", [quantity(rank.samples) for rank in ranks], numeric=True),
                *(
                    [texts("Tokens", [quantity(rank.tokens) for rank in ranks], numeric=True)]
                    if any(rank.tokens for rank in ranks)
                    else []
                ),
                amounts("Energy", [rank.joules for rank in ranks], "J"),
                times("Batches", [rank.compute_seconds for rank in ranks]),
                times("Data wait", [rank.data_wait_seconds for rank in ranks]),
                times("Waiting for others", [rank.barrier_seconds for rank in ranks]),
                amounts("Energy of that", [rank.barrier_joules for rank in ranks], "J"),
            ],
        )


def _versions(record: RunRecord) -> Element:
    run = record.run
    return facts(
        [
            ("Framework", run.framework),
            ("Model", run.model),
            ("Processes", f"{run.world_size:,}" + (f", started by {run.launcher}" if run.launcher else "")),
            ("Job", run.job_id),
            ("Devices", ", ".join(dict.fromkeys(device.name for device in record.devices)) or None),
            ("Location", record.carbon.location),
            ("Run", run.id),
            ("Tags", ", ".join(f"{name}={text}" for name, text in run.tags.items()) or None),
            ("Versions", ", ".join(f"{name} {text}" for name, text in run.versions.items()) or None),
            (
                "Options",
                ", ".join(f"{name}={text}" for name, text in run.options.items()) or (run.versions and "the defaults") or None,
            ),
        ]
    )


def _citations(record: RunRecord) -> Iterator[Element]:
    for identity, name, form in (
        ("card", "Model card (Hugging Face)", Format.MODEL_CARD),
        ("sci", "SCI statement (ISO/IEC 21031)", Format.SCI_JSON),
    ):
        try:
            text = export(record, form)
        except RecordError as error:
            yield node("p", node("strong", f"{name}: "), str(error))
            continue
        copy = node("button", "Copy", type="button", class_="copy", data_copies=identity, aria_label=f"Copy the {name}")
        yield node("div", node("h3", name), copy, class_="citation")
        yield node("pre", text, id=identity, tabindex=0, role="region", aria_label=name)


def _notes(record: RunRecord) -> Iterator[Element]:
    unknown = {} if record.process is None else record.process.unknown
    notes = [*note_lines(record), *(f"Share of this job unknown: {reason}" for reason in unknown.values())]
    if notes:
        yield node("ul", (node("li", text) for text in notes))


def _record(*, complete: bool) -> Iterator[Element]:
    text = "This page carries the record of the run"
    text += "." if complete else ", in which epochs and slices of its power are merged to fewer, longer ones."
    yield node("p", text, " Other programs read it in the element ", node("code", "run-record"), ".")
    yield node("p", node("button", "Download energy.json", type="button", class_="download", data_from="run-record"))
