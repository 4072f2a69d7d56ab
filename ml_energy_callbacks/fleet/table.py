"""Groups of runs as a table for a terminal."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ml_energy_callbacks.fleet.groups import Fleet, Group
from ml_energy_callbacks.fleet.reading import Runs
from ml_energy_callbacks.report.quantities import UNKNOWN, at_least, quantity
from ml_energy_callbacks.safe_text import in_texts, printable

_MOST_NAMED = 3
_Made = TypeVar("_Made")


def render_fleet(fleet: Fleet) -> RenderableType:
    """Return a table with a row for each group and a total, followed by notes."""
    fleet = in_texts(fleet, printable)
    total = fleet.total
    by = list(fleet.groups[0].by)
    stages = [stage for stage in ("train", "predict") if getattr(total, f"{stage}_joules_per_sample") is not None]
    (currency,) = total.cost if len(total.cost) == 1 else ("cost",)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for word in by:
        table.add_column(word, overflow="fold")
    columns = (
        "runs",
        *(("energy\nunknown",) if total.kwh_unknown else ()),
        "kWh",
        "esti-\nmated",
        "g CO2e",
        *((currency,) if total.cost else ()),
        *(f"J/sample\n{stage}" for stage in stages),
    )
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for group in fleet.groups:
        names = (UNKNOWN if value is None else value for value in group.by.values())
        table.add_row(*names, *_cells(group, total, stages))
    table.add_section()
    table.add_row("total", *[""] * (len(by) - 1), *_cells(total, total, stages))
    return Lines(table, *(Text(line) for line in _notes(fleet)))


def _cells(group: Group, total: Group, stages: Sequence[str]) -> Iterator[str]:
    yield f"{group.runs:,}"
    if total.kwh_unknown:
        yield f"{group.kwh_unknown:,}"
    yield _format_sum(group.kwh, group.kwh_unknown) + _uncertainty(group.kwh, group.relative_uncertainty)
    yield UNKNOWN if group.estimated_share is None else f"{group.estimated_share * 100:.0f} %"
    yield _format_sum(group.co2e_grams, group.co2e_unknown)
    if total.cost:
        unit = len(total.cost) > 1
        yield (
            "\n".join(_format_sum(cost, group.cost_unknown, name if unit else "") for name, cost in group.cost.items())
            or UNKNOWN
        )
    for stage in stages:
        each = getattr(group, f"{stage}_joules_per_sample")
        yield quantity(each) + _uncertainty(each, getattr(group, f"{stage}_relative_uncertainty"))


def _format_sum(value: float | None, unknown: int, unit: str = "") -> str:
    """Return a sum as text, marked as a lower bound if the value is unknown for some runs."""
    return at_least(quantity(value, unit), lower_bound=unknown > 0)


def _uncertainty(value: float | None, relative: float | None) -> str:
    return "" if value is None or relative is None else f" ±{relative:.0%}"


def _notes(fleet: Fleet) -> Iterator[str]:
    total = fleet.total
    if total.kwh_unknown or total.co2e_unknown or (total.cost and total.cost_unknown):
        yield "≥: lower bound, because values of some runs are unknown and not included."
    if total.co2e_assumed:
        yield f"Emissions of {_count_runs(total.co2e_assumed)} use, at least in part, the world average: no location was set."
    yield from file_notes(fleet, fleet.unlisted)


def file_notes(found: Fleet | Runs[_Made], unlisted: Sequence[str]) -> Iterator[str]:
    """Yield notes on files that were not used, and on directories that cannot be listed."""
    if found.repeated:
        yield (
            f"Additional records of the same runs: {found.repeated:,}; each run counts once, with its longest record. Energy "
            "that only another branch of the run used is not included."
        )
    for files, what in (
        (found.other_versions, "Not included, schema version not supported by this release"),
        (found.broken, "Not included, damaged or not a run record"),
        (unlisted, "Not searched, directory cannot be listed"),
    ):
        if files:
            more = ", ..." if len(files) > _MOST_NAMED else ""
            yield f"{what}: {len(files):,} ({', '.join(files[:_MOST_NAMED])}{more})."


def _count_runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number:,} runs"
