"""What the tab Energy shows: cards of the chosen run, the table of runs, and charts; pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Final, Literal
from xml.etree.ElementTree import Element

from ml_energy_callbacks.metrics import JOULES_PER_KWH, JOULES_PER_WH
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.drawing import node, series_colour
from ml_energy_callbacks.report.drawing.palette import paint
from ml_energy_callbacks.report.headline import headline
from ml_energy_callbacks.report.page.run import headline_list, phase_table, stage_table
from ml_energy_callbacks.report.page.runs import Difference, difference, short_names
from ml_energy_callbacks.report.page.tables import Column, amounts
from ml_energy_callbacks.report.pictures import best_value, epoch_lines, metric_against_energy, monitored, power_areas
from ml_energy_callbacks.report.quantities import UNKNOWN, at_least, money, scaled, scaled_range, uncertainty
from ml_energy_callbacks.safe_text import printable
from ml_energy_callbacks.tensorboard.charts import (
    LEGEND,
    Drawn,
    cumulative_energy,
    phases_by_epoch,
    sample_energy,
    where_it_went,
)
from ml_energy_callbacks.tensorboard.runs import TabRun
from ml_energy_callbacks.tensorboard.snapshots import pause_after

_MOST_ROWS = 100
_MOST_DRAWN = 8
"""As many as there are colours."""

_DRAWN_AT_FIRST = 5
_STALE_S, _STALE_PAUSES = 60.0, 3
"""A run without data for so long, and for so many pauses between snapshots, has probably been killed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the reader has chosen.

    Attributes:
        filter: Text that the names of the runs in the table contain.
        sort: Name of the column by which they are sorted.
        descending: Whether the largest is first.
        run: Name of the run that the cards show; None for the newest.
        baseline: Name of the run that the others are compared with; None for the oldest of those that are drawn.
        drawn: Names of the runs in the charts; None for the newest.
    """

    filter: str = ""
    sort: str = "started"
    descending: bool = True
    run: str | None = None
    baseline: str | None = None
    drawn: frozenset[str] | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, Sequence[str]]) -> "Wanted":
        """Return what a query of the form says; a button's ``by`` is the column that was pressed."""

        def one(name: str) -> str | None:
            values = query.get(name)
            return values[-1] if values else None

        sort, descending, pressed = one("sort") or "started", one("order") != "ascending", one("by")
        if pressed is not None:
            descending = not descending if pressed == sort else pressed not in _ASCENDING_FIRST
            sort = pressed
        return cls(
            filter=one("filter") or "",
            sort=sort,
            descending=descending,
            run=one("run"),
            baseline=one("baseline"),
            drawn=frozenset(query.get("drawn", ())) if one("chosen") else None,
        )


def tab(runs: Sequence[TabRun], wanted: Wanted, notes: Sequence[str], now: float) -> Element:
    """Return the contents of the tab.

    Args:
        runs: The runs in the order of their starts.
        wanted: What the reader has chosen.
        notes: What a reader has to know of runs that are not shown.
        now: Wall-clock time in s since 1970.
    """
    if not runs:
        return node("main", node("h1", "Energy"), node("p", _NO_RUNS, class_="empty"), _notes(notes))
    by_name = {run.name: run for run in runs}
    names = {run.name for run in runs[-_DRAWN_AT_FIRST:]} if wanted.drawn is None else wanted.drawn
    chosen = [run for run in runs if run.name in names]
    drawn = chosen[-_MOST_DRAWN:]
    shown = by_name.get(wanted.run or "") or (drawn or runs)[-1]
    baseline = by_name.get(wanted.baseline or "") or (drawn or runs)[0]
    labels = dict(zip(by_name, map(printable, short_names(list(by_name))), strict=True))
    state = _State(wanted, labels, shown, baseline, {run.name: series_colour(i) for i, run in enumerate(drawn)}, names, now)
    lines = [Drawn(labels[run.name], run.record, state.colours[run.name], _is_running(run, now)) for run in drawn]
    few = f"Only the {_MOST_DRAWN} newest of {len(chosen):,} ticked runs are drawn." if len(chosen) > len(drawn) else None
    return node(
        "main",
        node(
            "form",
            node("h1", "Energy"),
            _run_section(shown, labels[shown.name], now),
            _table_section(runs, state),
            _charts("Runs side by side", few, [cumulative_energy(lines), sample_energy(lines), _metric(lines)]),
            _charts(
                f"In run {labels[shown.name]}",
                None,
                [power_areas(shown.record), phases_by_epoch(shown.record), epoch_lines(shown.record)],
            ),
            _notes(notes),
            autocomplete="off",
        ),
    )


_NO_RUNS: Final = (
    "No run in this log directory has energy yet. Add EnergyCallback() to the callbacks of a trainer that logs to TensorBoard; "
    "the first figures come some seconds after the training has begun."
)


@dataclass(frozen=True, slots=True)
class _State:
    """What all parts of the tab agree on: the runs' names as they are shown, their colours, and what was chosen."""

    wanted: Wanted
    labels: Mapping[str, str]
    shown: TabRun
    baseline: TabRun
    colours: Mapping[str, str]
    ticked: frozenset[str] | set[str]
    now: float


def _is_running(run: TabRun, now: float) -> bool:
    late = max(_STALE_S, _STALE_PAUSES * pause_after(run.record.total.seconds))
    return run.record.run.status == "running" and now - run.written_at < late


def _status(run: TabRun, now: float) -> str:
    if not run.complete:
        return "log without records"
    if run.record.run.status != "running" or _is_running(run, now):
        return run.record.run.status
    return f"no news since {datetime.fromtimestamp(run.written_at).astimezone():%Y-%m-%d %H:%M}"


def _metric(lines: Sequence[Drawn]) -> Element:
    return metric_against_energy([(line.name, line.record) for line in lines])


def _charts(heading: str, note: str | None, figures: Sequence[Element]) -> Element:
    return node(
        "section",
        node("h2", heading),
        None if note is None else node("p", note, class_="note"),
        node("div", figures, class_="charts"),
    )


def _notes(notes: Sequence[str]) -> Element | None:
    if not notes:
        return None
    shown = [node("li", note) for note in notes[:_MOST_NOTES]]
    more = node("li", f"{len(notes) - _MOST_NOTES:,} more") if len(notes) > _MOST_NOTES else None
    return node("section", node("h2", "Notes"), node("ul", shown, more))


_MOST_NOTES = 10


# ------------------------------------------------------------------------------------------------------- the chosen run


def _run_section(run: TabRun, name: str, now: float) -> Element:
    record = run.record
    status = _status(run, now)
    badges = [
        (status, "good" if status in {"completed", "running"} else "warn"),
        (
            uncertainty(record.total.provenance, record.total.relative_uncertainty),
            "good" if record.total.provenance == "measured" else "warn",
        ),
        *([("lower bound", "warn")] if record.lower_bound else []),
        *([("location assumed", "warn")] if record.carbon.assumed and record.total.co2e_grams is not None else []),
    ]
    return node(
        "section",
        node("h2", name, id="run-heading"),
        node("ul", (node("li", text, class_=f"badge {kind}") for text, kind in badges), class_="badges", aria_label="Status"),
        node(
            "dl",
            [node("div", node("dt", title), node("dd", value, note)) for title, value, note in _cards(run, now)],
            class_="cards",
        ),
        _details(record) if run.complete else None,
        aria_labelledby="run-heading",
    )


def _details(record: RunRecord) -> list[Element]:
    return [
        node("details", node("summary", "Headline"), headline_list(headline(record)), id="headline"),
        node("details", node("summary", "Stages and phases"), stage_table(record), [*phase_table(record)], id="stages"),
    ]


_Card = tuple[str, str, Element]


def _cards(run: TabRun, now: float) -> list[_Card]:
    record, total = run.record, run.record.total
    half = "" if total.relative_uncertainty is None else f"±{total.relative_uncertainty:.0%}".replace("%", " %")
    cards = [
        (
            "Energy",
            at_least(_watt_hours(total.joules), lower_bound=record.lower_bound),
            _small("unknown" if total.joules is None else f"{scaled(total.joules, 'J')} {half}"),
        ),
        ("Mean power", *_mean_power(record)),
    ]
    forecast = record.forecast
    if forecast is not None and _is_running(run, now):
        kwhs = (forecast.kwh_low, forecast.kwh, forecast.kwh_high)
        low, middle, high = (kwh * JOULES_PER_KWH / JOULES_PER_WH for kwh in kwhs)
        cards.insert(1, ("Expected", scaled(middle, "Wh"), _small(scaled_range(low, high, "Wh"))))
    for stage, title in (("train", "Training"), ("validate", "Validation")):
        found = record.stages.get(stage)
        if found is not None:
            certain = uncertainty(found.provenance, found.relative_uncertainty)
            cards.append((f"{title} sample", scaled(found.joules_per_sample, "J"), _small(certain)))
            if found.joules_per_token is not None:
                cards.append((f"{title} token", scaled(found.joules_per_token, "J"), _small(certain)))
    grams = total.co2e_grams
    if grams is not None:
        place = "location assumed" if record.carbon.assumed else record.carbon.location or ""
        cards.append(("Emissions", at_least(scaled(grams, "g CO2e", 2), lower_bound=record.lower_bound), _small(place)))
    if total.cost is not None:
        cost = at_least(money(total.cost, total.currency), lower_bound=record.lower_bound)
        cards.append(("Cost", cost, _small("electricity")))
    name = monitored([record])
    value = None if name is None else best_value(record, name)
    if name is not None and value is not None:
        cards.append((f"Best {name}", f"{value:.4g}", _small("")))
    return cards


def _small(text: str) -> Element:
    return node("small", text)


def _mean_power(record: RunRecord) -> tuple[str, Element]:
    joules, seconds = record.total.joules, record.total.seconds
    watts = None if joules is None or not seconds else joules / seconds
    return scaled(watts, "W"), _small(f"in {scaled(seconds, 's')}")


def _watt_hours(joules: float | None) -> str:
    return UNKNOWN if joules is None else scaled(joules / JOULES_PER_WH, "Wh")


# ------------------------------------------------------------------------------------------------------- the table of runs


_ASCENDING_FIRST: Final = {"run"}


def _table_section(runs: Sequence[TabRun], state: _State) -> Element:
    wanted = state.wanted
    text = wanted.filter.casefold()
    matching = [run for run in runs if text in run.name.casefold()]
    metric = monitored([run.record for run in runs if run.name in state.colours]) or monitored([run.record for run in runs])
    keys = _sort_keys(metric, state)
    key = keys.get(wanted.sort, keys["started"])
    keyed = [(run, key(run)) for run in matching]
    known = sorted((pair for pair in keyed if pair[1] is not None), key=itemgetter(1), reverse=wanted.descending)
    rows = [run for run, _ in [*known, *(pair for pair in keyed if pair[1] is None)]][:_MOST_ROWS]
    hidden = sorted(state.ticked - {run.name for run in rows})
    count = f"{len(matching):,} of {len(runs):,} runs" if text else f"{len(runs):,} run{'s' if len(runs) > 1 else ''}"
    first = f"; the first {_MOST_ROWS} are listed, filter by name to find others" if len(matching) > len(rows) else ""
    return node(
        "section",
        node("h2", "Runs"),
        node(
            "div",
            node("label", "Filter by name ", node("input", type="search", name="filter", id="filter", value=wanted.filter)),
            node("span", f"{count}{first}", class_="note", role="status"),
            class_="tools",
        ),
        [
            node("input", type="hidden", name=name, value=value)
            for name, value in [
                ("chosen", "1"),
                ("sort", wanted.sort),
                ("order", "descending" if wanted.descending else "ascending"),
                ("run", state.shown.name),
                *(("drawn", name) for name in hidden),
                *([] if state.baseline in rows else [("baseline", state.baseline.name)]),
            ]
        ],
        _table(rows, metric, state),
        node("p", _EXPLAINED, class_="note"),
        node(
            "ul",
            (node("li", node("span", class_="swatch", style=f"background:{paint(c)}"), label) for label, c in LEGEND),
            class_="legend",
            aria_label="Colours of the column Where it went",
        ),
    )


_EXPLAINED: Final = (
    "Tick the runs to draw, and choose the baseline. A difference is grey where its 95 % interval includes zero. "
    "A run's name shows it above."
)

_Key = Callable[[TabRun], Any]
_Unit = Literal["sample", "token"]


def _sort_keys(metric: str | None, state: _State) -> dict[str, _Key]:
    """Return what each column sorts by; None is last in both directions."""
    return {
        "run": lambda run: run.name.casefold(),
        "energy": lambda run: run.record.total.joules,
        "difference": lambda run: run.record.total.joules,  # from the same baseline: the order is the same, and known at once
        "train": lambda run: _each(run, "train", "sample"),
        "validate": lambda run: _each(run, "validate", "sample"),
        "token": lambda run: _each(run, "train", "token"),
        "grams": lambda run: run.record.total.co2e_grams,
        "metric": lambda run: None if metric is None else best_value(run.record, metric),
        "started": lambda run: run.record.run.started_at,
        "status": lambda run: _status(run, state.now),
    }


def _table(rows: Sequence[TabRun], metric: str | None, state: _State) -> Element:
    records = [run.record for run in rows]
    least = [record.lower_bound for record in records]
    pairs = [(run, difference(state.baseline.record, run.record)) for run in rows]
    columns: list[tuple[str, Column]] = [
        ("run", Column("Run", [_name(run, state) for run in rows])),
        ("baseline", Column("Baseline", [_baseline(run, state) for run in rows])),
        ("energy", amounts("Energy", [_in_wh(record) for record in records], "Wh", least)),
        ("difference", Column("Difference", [_difference(run, each, state) for run, each in pairs], numeric=True)),
        ("where", Column("Where it went", [where_it_went(record) for record in records])),
        ("train", _energy_of_each("Training sample", rows, "train", "sample")),
        ("validate", _energy_of_each("Validation sample", rows, "validate", "sample")),
        *(
            [("token", _energy_of_each("Training token", rows, "train", "token"))]
            if any(_each(run, "train", "token") is not None for run in rows)
            else []
        ),
        ("grams", amounts("Emissions", [record.total.co2e_grams for record in records], "g CO2e", least)),
    ]
    if metric is not None:
        values = [best_value(record, metric) for record in records]
        columns.append(("metric", Column(metric, [_plain(value) for value in values], numeric=True)))
    columns += [
        ("status", Column("Status", [_status(run, state.now) for run in rows])),
        ("started", Column("Started", [_started(record) for record in records])),
    ]
    body = [
        node(
            "tr",
            [_cell(name, column, i) for name, column in columns],
            class_="shown" if run is state.shown else None,
        )
        for i, run in enumerate(rows)
    ]
    head = node("tr", [_heading(name, column, state.wanted) for name, column in columns])
    found = node("table", node("caption", "Runs", class_="said"), node("thead", head), node("tbody", body))
    return node("div", found, class_="scroll", tabindex=0, role="region", aria_label="Table of runs", id="runs")


def _heading(name: str, column: Column, wanted: Wanted) -> Element:
    order = ("descending" if wanted.descending else "ascending") if name == wanted.sort else None
    unsorted = name in {"baseline", "where"}
    button = column.heading if unsorted else node("button", column.heading, name="by", value=name, id=f"by-{name}")
    return node("th", button, scope="col", aria_sort=order, class_="number" if column.numeric else f"of-{name}")


def _cell(name: str, column: Column, row: int) -> Element:
    kind = "number" if column.numeric else f"of-{name}"
    return node("th" if name == "run" else "td", column.cells[row], class_=kind, scope="row" if name == "run" else None)


def _identity(run: TabRun) -> str:
    """Return a name for the run's elements, which stays the same while rows move."""
    return blake2b(run.name.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def _name(run: TabRun, state: _State) -> Element:
    name, identity = state.labels[run.name], _identity(run)
    colour = state.colours.get(run.name)
    return node(
        "span",
        node(
            "input",
            type="checkbox",
            name="drawn",
            value=run.name,
            checked=run.name in state.ticked,
            id=f"drawn-{identity}",
            aria_label=f"Draw {name}",
        ),
        node("span", class_="swatch", style=f"background:{paint(colour)}" if colour else None),
        node("button", name, name="run", value=run.name, id=f"run-{identity}", aria_pressed=str(run is state.shown).lower()),
        class_="name",
    )


def _baseline(run: TabRun, state: _State) -> Element:
    return node(
        "input",
        type="radio",
        name="baseline",
        value=run.name,
        checked=run is state.baseline,
        id=f"baseline-{_identity(run)}",
        aria_label=f"Compare with {state.labels[run.name]}",
    )


def _difference(run: TabRun, found: Difference, state: _State) -> Element:
    """Return the difference from the baseline; that of a run that goes on says nothing yet, and is grey."""
    if _is_running(run, state.now) and found.value:
        return node("span", found.text.partition(" (")[0], " so far", class_="within")
    return node("span", found.text, class_=found.kind)


def _in_wh(record: RunRecord) -> float | None:
    return None if record.total.joules is None else record.total.joules / JOULES_PER_WH


def _each(run: TabRun, stage: str, unit: _Unit) -> float | None:
    found = run.record.stages.get(stage)
    return None if found is None else found.joules_per_sample if unit == "sample" else found.joules_per_token


def _energy_of_each(heading: str, rows: Sequence[TabRun], stage: str, unit: _Unit) -> Column:
    """Return the column of the energy of a sample or a token, with the half-width of its 95 % interval."""
    column = amounts(heading, [_each(run, stage, unit) for run in rows], "J")
    doubts = [found.relative_uncertainty if (found := run.record.stages.get(stage)) is not None else None for run in rows]
    cells = [
        text if doubt is None or text == UNKNOWN else node("span", text, node("small", f" ±{doubt * 100:.0f} %"))
        for text, doubt in zip(column.cells, doubts, strict=True)
    ]
    return replace(column, cells=cells)


def _plain(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4g}"


def _started(record: RunRecord) -> Element:
    started = datetime.fromisoformat(record.run.started_at)
    return node("time", f"{started.astimezone():%m-%d %H:%M}", datetime=started.isoformat())
