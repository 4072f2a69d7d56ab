"""The page of several runs: a table that sorts, differences from a baseline, and energy against the metric."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from xml.etree.ElementTree import Element

import msgspec

from ml_energy_callbacks.metrics import JOULES_PER_WH
from ml_energy_callbacks.record.schema import FILE_NAME, RunRecord
from ml_energy_callbacks.report.diff import diff_runs
from ml_energy_callbacks.report.drawing import node
from ml_energy_callbacks.report.page.document import Section, carried, document
from ml_energy_callbacks.report.page.embedded import embed
from ml_energy_callbacks.report.page.tables import Column, amounts, certainties, marked, table, times
from ml_energy_callbacks.report.pictures import best_value, metric_against_energy, monitored, run_bars
from ml_energy_callbacks.report.quantities import UNKNOWN, money_column, scaled
from ml_energy_callbacks.safe_text import in_texts, printable

_MOST_BARS = 25
_TENTH = 0.1
_MOST_BASELINES = 30
"""With more runs, the baseline is the first one: the page has the difference of each pair."""

_MOST_RECORD_BYTES = 100_000
"""Of all runs together; a page whose runs have more carries none."""


class Difference(msgspec.Struct, frozen=True):
    """Energy of a run compared with that of the baseline, as it is shown.

    Attributes:
        text: The relative difference with its 95 % interval, such as ``+12 % (+7 % to +17 %)``.
        kind: ``less``, ``more``, ``within`` the interval, ``same`` run, or ``unknown``.
        value: The relative difference, or None.
    """

    text: str
    kind: str
    value: float | None


def difference(baseline: RunRecord, record: RunRecord) -> Difference:
    """Return how the energy of a run compares with that of the baseline, as ``ml-energy diff`` compares two runs."""
    if record.run.id == baseline.run.id:
        return Difference("baseline", "same", 0.0)
    base, change = baseline.total.joules, diff_runs(baseline, record).total.difference
    if not base or change is None or change.joules is None:
        return Difference(UNKNOWN, "unknown", None)
    relative, low, high = (joules / base for joules in (change.joules, change.low_joules, change.high_joules))
    text = f"{_signed(relative)} ({_signed(low)} to {_signed(high)})"
    return Difference(text, change.verdict if change.verdict in {"less", "more"} else "within", relative)


def _signed(share: float) -> str:
    sign = "+" if share > 0 else "−" if share < 0 else ""  # noqa: RUF001 - a minus sign
    return f"{sign}{abs(share) * 100:,.{0 if abs(share) >= _TENTH else 1}f} %"


def runs_page(runs: Sequence[tuple[str, RunRecord]], notes: Sequence[str] = ()) -> str:
    """Return the page of several runs.

    Args:
        runs: The paths or URLs of the records, and the records; the first one is the baseline until the reader chooses another.
        notes: What a reader has to know, such as files that could not be read.
    """
    records = [embed(record, _MOST_RECORD_BYTES // len(runs))[0] for _, record in runs]
    fit = sum(map(len, records)) <= _MOST_RECORD_BYTES
    data = [carried(f"run-record-{i}", json) for i, json in enumerate(records)] if fit else []
    names = short_names([path for path, _ in runs])
    runs = [(printable(name), in_texts(record, printable)) for name, (_, record) in zip(names, runs, strict=True)]
    several = len(runs) <= _MOST_BASELINES
    if several:
        pairs = [[difference(baseline, record) for _, record in runs] for _, baseline in runs]
        data.append(carried("differences", msgspec.json.encode(pairs).decode()))
    largest = sorted(runs, key=lambda run: -(run[1].total.joules or 0.0))[:_MOST_BARS]
    bars = [run for run in runs if run in largest]
    left_out = len(runs) - len(bars)
    lines = [node("p", f"The {_MOST_BARS} runs with the most energy of {len(runs):,}.")] if left_out else []
    known = [record.total.joules for _, record in runs if record.total.joules is not None]
    least = "at least " if any(record.lower_bound for _, record in runs) else ""
    total = f"{least}{scaled(sum(known) / JOULES_PER_WH, 'Wh')} in all" if known else "energy unknown"
    unknown = len(runs) - len(known)
    missing = f", {unknown:,} of unknown energy" if unknown else ""
    header = [node("h1", f"Energy of {len(runs):,} runs"), node("p", f"{total}{missing}", class_="subtitle")]
    comparison = _table(runs, choose=several)
    sections = [
        Section("runs", "Runs", [comparison, _explanation(choose=several)]),
        Section("metric", "Energy against the metric", [metric_against_energy(runs)]),
        Section("where", "Where it went", [*lines, run_bars(bars)]),
        Section("notes", "Notes", [node("ul", (node("li", printable(note)) for note in notes))] if notes else []),
    ]
    return document(f"Energy of {len(runs)} runs", header, sections, data)


def short_names(paths: Sequence[str]) -> list[str]:
    """Return names of records: their folders, without what all have in common, or their files where a folder has several."""
    parts = [path.replace("\\", "/").split("/") for path in paths]
    if all(part[-1] == FILE_NAME for part in parts):
        parts = [part[:-1] or part for part in parts]
    while all(len(part) > 1 for part in parts) and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    return ["/".join(part) for part in parts]


def _explanation(*, choose: bool) -> Element:
    chosen = "Choose the baseline in the first column." if choose else "The baseline is the first run."
    grey = "A difference is grey where its 95 % interval includes zero. Where it comes from is shown by "
    return node("p", f"{chosen} {grey}", node("code", "ml-energy diff"), ".")


def _table(runs: Sequence[tuple[str, RunRecord]], *, choose: bool) -> Element:
    records = [record for _, record in runs]
    first = records[0]
    found = [difference(first, record) for record in records]
    least = [record.lower_bound for record in records]
    cells = [node("span", each.text, class_=each.kind, data_run=str(i)) for i, each in enumerate(found)]
    columns = [
        Column("Run", [_name(i, name, choose=choose) for i, (name, _) in enumerate(runs)], values=[name for name, _ in runs]),
        amounts("Energy", [_in_wh(record) for record in records], "Wh", least),
        Column("Difference", cells, numeric=True, values=[each.value for each in found]),
        amounts("Training sample", [_per_sample(record, "train") for record in records], "J"),
        amounts("Validation sample", [_per_sample(record, "validate") for record in records], "J"),
        *_token_columns(records),
        amounts("Emissions", [record.total.co2e_grams for record in records], "g CO2e", least),
        times("Time", [record.total.seconds for record in records]),
    ]
    metric = monitored(records)
    if metric is not None:
        values = [best_value(record, metric) for record in records]
        shown = [UNKNOWN if value is None else f"{value:.4g}" for value in values]
        columns.insert(3, Column(metric, shown, numeric=True, values=values))
    currencies = {record.total.currency for record in records if record.total.cost is not None}
    if len(currencies) == 1:
        costs = [record.total.cost for record in records]
        shown_costs = marked(money_column(costs), least)
        columns.append(Column(f"Cost, {currencies.pop()}", shown_costs, numeric=True, values=costs))
    columns.append(certainties((record.total.provenance, record.total.relative_uncertainty) for record in records))
    started = [datetime.fromisoformat(record.run.started_at) for record in records]
    shown_times = [node("time", f"{each:%Y-%m-%d %H:%M}", datetime=each.isoformat()) for each in started]
    columns.append(Column("Started", shown_times, values=[each.timestamp() for each in started]))
    return table("Energy and metric of each run", columns, sorts=True)


def _name(i: int, name: str, *, choose: bool) -> Element | str:
    if not choose:
        return name
    return node("label", node("input", type="radio", name="baseline", value=str(i), checked=i == 0), f" {name}")


def _in_wh(record: RunRecord) -> float | None:
    return None if record.total.joules is None else record.total.joules / JOULES_PER_WH


def _token_columns(records: Sequence[RunRecord]) -> Iterator[Column]:
    """Yield the columns of the energy of a token, of the stages where it is known of any run."""
    for name, heading in (("train", "Training token"), ("predict", "Prediction token")):
        stages = [record.stages.get(name) for record in records]
        if any(stage is not None and stage.joules_per_token is not None for stage in stages):
            yield amounts(heading, [None if stage is None else stage.joules_per_token for stage in stages], "J")


def _per_sample(record: RunRecord, name: str) -> float | None:
    stage = record.stages.get(name)
    return None if stage is None else stage.joules_per_sample
