"""Groups of runs as a table for a terminal."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from ml_energy_callbacks.fleet.groups import Fleet, Group
from ml_energy_callbacks.fleet.reading import Runs
from ml_energy_callbacks.metrics import JOULES_PER_KWH, JOULES_PER_WH
from ml_energy_callbacks.report.fitted_table import Column, FittedTable
from ml_energy_callbacks.report.quantities import UNKNOWN, at_least, column, money, money_column, percent, time_column
from ml_energy_callbacks.safe_text import in_texts, printable

_MOST_NAMED = 3
_Made = TypeVar("_Made")


def render_fleet(fleet: Fleet) -> RenderableType:
    """Return a table with a row for each group and a total, followed by notes."""
    fleet = in_texts(fleet, printable)
    return Lines(_table(fleet), *(Text(line) for line in _notes(fleet)))


def _table(fleet: Fleet) -> FittedTable:
    groups, total = [*fleet.groups, fleet.total], fleet.total
    columns = [_names(word, fleet) for word in _words(fleet)]
    if "run" in _words(fleet):
        columns.append(Column("started", [*(group.started_at[:16].replace("T", " ") for group in fleet.groups), ""], rank=4))
    if any(group.runs > 1 for group in fleet.groups):
        columns.append(Column("runs", [f"{group.runs:,}" for group in groups], rank=3))
    unit, times = time_column([group.seconds for group in groups])
    columns.append(Column(f"time\n{unit}", times, rank=7))
    if total.kwh_unknown:
        columns.append(Column("energy\nunknown", [f"{group.kwh_unknown:,}" for group in groups], rank=8))
    hours = [None if group.kwh is None else group.kwh * JOULES_PER_KWH / JOULES_PER_WH for group in groups]
    unit, texts = column(hours, "Wh")
    known = [at_least(text, lower_bound=group.kwh_unknown > 0) for text, group in zip(texts, groups, strict=True)]
    columns.append(Column(f"energy\n{unit}", _with_doubt(known, [group.relative_uncertainty for group in groups])))
    estimated = [UNKNOWN if group.estimated_share is None else percent(group.estimated_share) for group in groups]
    columns.append(Column("esti-\nmated", estimated, rank=5))
    unit, texts = column([group.co2e_grams for group in groups], "g CO2e")
    grams = [at_least(text, lower_bound=group.co2e_unknown > 0) for text, group in zip(texts, groups, strict=True)]
    columns.append(Column(f"emissions\n{unit}", grams, rank=2))
    if total.cost:
        columns.append(_costs(groups, total))
    for stage in ("train", "predict"):
        columns += [*_each(groups, stage, "sample", rank=6), *_each(groups, stage, "token", rank=9)]
    return FittedTable(columns, sections=[len(fleet.groups)])


def _words(fleet: Fleet) -> Sequence[str]:
    return list(fleet.groups[0].by)


def _names(word: str, fleet: Fleet) -> Column:
    values = [group.by[word] for group in fleet.groups]
    total = "total" if word == _words(fleet)[0] else ""
    return Column(word, [*(UNKNOWN if value is None else value for value in values), total], left=True, narrowest=20)


def _with_doubt(texts: Sequence[str], doubts: Sequence[float | None]) -> list[str]:
    """Return quantities with their relative uncertainties, the signs below each other."""
    errors = [
        "" if doubt is None or text == UNKNOWN else f"±{percent(doubt)}" for text, doubt in zip(texts, doubts, strict=True)
    ]
    width = max(map(len, errors), default=0)
    return [f"{text} {error.rjust(width)}".rstrip() for text, error in zip(texts, errors, strict=True)]


def _costs(groups: Sequence[Group], total: Group) -> Column:
    """Return the costs; of several currencies, each with its name."""
    if len(total.cost) == 1:
        ((currency, _),) = total.cost.items()
        texts = money_column([group.cost.get(currency) for group in groups])
        costs = [at_least(text, lower_bound=group.cost_unknown > 0) for text, group in zip(texts, groups, strict=True)]
        return Column(f"cost\n{currency}", costs, rank=1)
    several = [
        ", ".join(at_least(money(cost, name), lower_bound=group.cost_unknown > 0) for name, cost in group.cost.items())
        for group in groups
    ]
    return Column("cost", [text or UNKNOWN for text in several], rank=1)


def _each(groups: Sequence[Group], stage: str, what: str, rank: int) -> Iterator[Column]:
    """Yield the column of a stage's energy per sample or per token, if it is known of any run."""
    values = [getattr(group, f"{stage}_joules_per_{what}") for group in groups]
    if any(value is not None for value in values):
        unit, texts = column(values, f"J/{what}")
        of_token = "token_" if what == "token" else ""
        doubts = [getattr(group, f"{stage}_{of_token}relative_uncertainty") for group in groups]
        yield Column(f"{stage}\n{unit}", _with_doubt(texts, doubts), rank)


def _notes(fleet: Fleet) -> Iterator[str]:
    total = fleet.total
    if total.kwh_unknown or total.co2e_unknown or (total.cost and total.cost_unknown):
        yield "≥: lower bound, because values of some runs are unknown and not included."
    if total.co2e_assumed:
        yield f"Emissions of {_count_runs(total.co2e_assumed)} use, at least in part, the world average: no location was set."
    if fleet.included:
        yield f"Included in runs of `ml-energy run`: {_count_runs(fleet.included)}, counted once."
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
