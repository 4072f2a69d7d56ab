"""A run for a terminal: its headline, the table of its stages, hints and notes; and its details."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.detail_tables import detail_tables
from ml_energy_callbacks.report.fitted_table import Column, FittedTable
from ml_energy_callbacks.report.headline import Line, headline, headline_text
from ml_energy_callbacks.report.notes import detail_lines, hint_lines, indented, note_lines, rows_of
from ml_energy_callbacks.report.quantities import (
    UNKNOWN,
    at_least,
    column,
    money_column,
    quantity,
    shares,
    time_column,
    uncertainty,
)
from ml_energy_callbacks.safe_text import in_texts, printable

_SHOWN_STATUS = {
    "running": "still running or killed",
    "completed": "completed",
    "stopped": "stopped",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True)
class Headline:
    """A headline in the width of the terminal."""

    lines: Sequence[Line]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the text, with its labels highlighted."""
        text = Text(headline_text(self.lines, options.max_width), overflow="fold")
        text.highlight_regex(r"(?m)^\S+", "bold")
        text.highlight_regex(r"(?m)^!", "bold yellow")
        yield text


def render(record: RunRecord, path: Path | str | None = None, *, verbose: bool = False) -> Group:
    """Return the headline, the table of stages, hints and notes.

    Args:
        record: The run.
        path: Path or URL of its record; None for where it was written to, if anywhere.
        verbose: Whether to add phases, devices, hosts and processes, provenance, latencies, and the sources of figures.
    """
    lines = [Line(line.label, line.cells[:1]) if line.label == "Record" else line for line in headline(record, path)]
    record = in_texts(record, printable)
    parts: list[RenderableType] = [Headline(lines), _run_line(record), _stage_table(record, verbose=verbose)]
    if verbose:
        parts += detail_tables(record)
    notes = [*hint_lines(record), *note_lines(record), *(detail_lines(record) if verbose else ())]
    if not verbose:
        notes.append("ml-energy report -v shows phases, devices, latencies and sources.")
    return Group(*parts, *map(Text, notes))


def _run_line(record: RunRecord) -> Text:
    run = record.run
    began = run.started_at[:16].replace("T", " ")
    framework = None if run.framework == "none" else run.framework
    facts = ", ".join(filter(None, (f"Run {run.id[:8]}", run.model, framework, began)))
    return Text(f"\n{facts}: {_SHOWN_STATUS[run.status]}")


def _stage_table(record: RunRecord, *, verbose: bool) -> FittedTable:
    """Return the stages, each with its sub-stages, and the stages' total, in columns of one unit each.

    Columns of which nothing is known are left out.
    """
    stages, total = [stage for _, stage in rows_of(record)], record.total
    names = [*(indented(name, "  ") for name, _ in rows_of(record)), "total"]
    watts = total.joules / total.seconds if total.joules is not None and total.seconds else None
    columns = [
        Column("stage", names, left=True),
        _column("time", *time_column([*(stage.seconds for stage in stages), total.seconds]), rank=3),
        _summed("energy", [stage.joules for stage in stages], total.joules, "J", record),
        Column("share", [*shares([stage.joules for stage in stages], total.joules), ""], rank=1),
        _column("power", *column([*(stage.mean_watts for stage in stages), watts], "W"), rank=6),
        *_each("energy", [stage.joules_per_sample for stage in stages], "J/sample", rank=2),
        *_each("energy", [stage.joules_per_token for stage in stages], "J/token", rank=2),
        *_each("above idle", [stage.joules_per_sample_above_idle for stage in stages], "J/sample", rank=7),
        _summed("emissions", [stage.co2e_grams for stage in stages], total.co2e_grams, "g CO2e", record, rank=4),
    ]
    if total.cost is not None:
        *costs, cost = money_column([*(stage.cost for stage in stages), total.cost])
        columns.append(_column("cost", total.currency, [*costs, at_least(cost, lower_bound=record.lower_bound)], rank=5))
    if verbose:
        doubts = [uncertainty(stage.provenance, stage.relative_uncertainty) for stage in stages]
        columns.append(
            Column("uncertainty", [*doubts, uncertainty(total.provenance, total.relative_uncertainty)], rank=8, left=True)
        )
    flops = [stage.flops for stage in stages]
    columns += _each("energy", [None if each is None else each.joules_per_flop for each in flops], "J/FLOP", rank=11)
    columns += _each("rate", [None if each is None else each.flops_per_second for each in flops], "FLOP/s", rank=10)
    if any(stage.tokens_per_joule is not None for stage in stages):
        columns.append(_column("yield", "tokens/J", [*(quantity(stage.tokens_per_joule) for stage in stages), ""], rank=9))
    known = [column for column in columns if not column.rank or not {UNKNOWN, ""}.issuperset(column.texts)]
    return FittedTable(known, sections=[len(stages)])


def _column(quantity: str, unit: str, texts: Sequence[str], rank: int = 0) -> Column:
    return Column(f"{quantity}\n{unit}", texts, rank)


def _summed(
    quantity: str, parts: Sequence[float | None], total: float | None, unit: str, record: RunRecord, rank: int = 0
) -> Column:
    unit, (*texts, last) = column([*parts, total], unit)
    return _column(quantity, unit, [*texts, at_least(last, lower_bound=record.lower_bound)], rank)


def _each(quantity: str, values: Sequence[float | None], unit: str, rank: int) -> Iterator[Column]:
    """Yield the column of a quantity that the total does not have, if it is known of any stage."""
    if any(value is not None for value in values):
        unit, texts = column(values, unit)
        yield _column(quantity, unit, [*texts, ""], rank)
