"""Tables of HTML, with numbers to the right and one SI prefix for a column."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Final
from xml.etree.ElementTree import Element

from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.report.drawing import node
from ml_energy_callbacks.report.quantities import UNKNOWN, factor_of, prefix_of, uncertainty

_MOST_DECIMALS: Final = 3


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, its cells, and for one that sorts, a value of each cell, None where it is unknown."""

    heading: str
    cells: Sequence[Element | str]
    numeric: bool = False
    values: Sequence[float | str | None] | None = None


def amounts(heading: str, values: Sequence[float | None], unit: str) -> Column:
    """Return a column of quantities with the same decimals and one SI prefix, which is in the heading with the unit."""
    prefix = prefix_of(max((abs(value) for value in values if value is not None), default=0.0), unit)
    scaled = [None if value is None else value / factor_of(prefix) for value in values]
    sizes = [abs(value) for value in scaled if value]
    decimals = _decimals(min(sizes), max(sizes)) if sizes else 0
    return Column(f"{heading},\u00a0{prefix}{unit}", [_fixed(value, decimals) for value in scaled], numeric=True, values=values)


def _decimals(least: float, most: float) -> int:
    """Return how many decimals show three digits of the largest value, and two of the smallest one unless that takes many."""
    return max(0, 2 - floor(log10(most)), min(_MOST_DECIMALS, 1 - floor(log10(least))))


def _fixed(value: float | None, decimals: int) -> str:
    if value is None:
        return UNKNOWN
    text = f"{value:,.{decimals}f}"
    return f"<{10.0**-decimals:.{decimals}f}" if value > 0 and not float(text.replace(",", "")) else text


def texts(heading: str, cells: Sequence[Element | str], *, numeric: bool = False) -> Column:
    """Return a column of texts."""
    return Column(heading, cells, numeric=numeric)


def certainties(figures: Iterable[tuple[Provenance | None, float | None]]) -> Column:
    """Return a column that says of each figure whether it is measured, and its uncertainty."""
    shown = [uncertainty(*figure) for figure in figures]
    return Column("Certainty", [text.replace(" ", "\u00a0") for text in shown], values=shown)


def table(caption: str, columns: Sequence[Column], *, sorts: bool = False, total: int | None = None) -> Element:
    """Return a table that scrolls sideways where it is wider than the page.

    Args:
        caption: What it shows.
        columns: The columns; the first one names the rows.
        sorts: Whether its columns have buttons by which the reader sorts it.
        total: Index of the row that sums the others, or None.
    """
    rows = [
        node(
            "tr",
            [_cell(column, row, first=i == 0, sorts=sorts) for i, column in enumerate(columns)],
            class_="total" if row == total else None,
        )
        for row in range(len(columns[0].cells))
    ]
    head = node("tr", [_heading(column, sorts=sorts) for column in columns])
    found = node("table", node("caption", caption), node("thead", head), node("tbody", rows), class_="sorts" if sorts else None)
    return node("div", found, class_="scroll", tabindex=0, role="region", aria_label=caption)


def facts(pairs: Iterable[tuple[str, str | None]]) -> Element:
    """Return names and values; those that are None are left out."""
    return node(
        "dl", (node("div", node("dt", name), node("dd", value)) for name, value in pairs if value is not None), class_="facts"
    )


def _heading(column: Column, *, sorts: bool) -> Element:
    button = node("button", column.heading, type="button") if sorts and column.values is not None else column.heading
    return node("th", button, scope="col", class_="number" if column.numeric else None)


def _cell(column: Column, row: int, *, first: bool, sorts: bool) -> Element:
    value = None if column.values is None or not sorts else column.values[row]
    shown = None if value is None else repr(value) if isinstance(value, float) else str(value)
    tag, scope = ("th", "row") if first else ("td", None)
    return node(tag, column.cells[row], scope=scope, data_value=shown, class_="number" if column.numeric else None)
