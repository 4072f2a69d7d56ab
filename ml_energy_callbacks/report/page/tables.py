"""Tables of HTML, with numbers to the right and one SI prefix for a column."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.report.drawing import node
from ml_energy_callbacks.report.quantities import at_least, column, time_column, uncertainty


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, its cells, and for one that sorts, a value of each cell, None where it is unknown."""

    heading: str
    cells: Sequence[Element | str]
    numeric: bool = False
    values: Sequence[float | str | None] | None = None


def amounts(heading: str, values: Sequence[float | None], unit: str, least: Sequence[bool] = ()) -> Column:
    """Return a column of quantities with aligned decimals and one SI prefix, which is in the heading with the unit.

    Args:
        heading: Its heading.
        values: The quantities, None where they are unknown.
        unit: Their unit.
        least: Whether each is a lower bound; empty where none is.
    """
    shown_unit, cells = column(values, unit)
    return Column(f"{heading},\u00a0{shown_unit}", marked(cells, least), numeric=True, values=values)


def marked(cells: Sequence[str], least: Sequence[bool]) -> Sequence[str]:
    """Return the cells of a column, each marked with ``≥`` where it is a lower bound."""
    return [at_least(cell, lower_bound=bound) for cell, bound in zip(cells, least, strict=True)] if least else cells


def times(heading: str, values: Sequence[float | None]) -> Column:
    """Return a column of times in s, which shows hours of long ones."""
    shown_unit, cells = time_column(values)
    return Column(f"{heading},\u00a0{shown_unit}", cells, numeric=True, values=values)


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
            [_cell(each, row, first=i == 0, sorts=sorts) for i, each in enumerate(columns)],
            class_="total" if row == total else None,
        )
        for row in range(len(columns[0].cells))
    ]
    head = node("tr", [_heading(each, sorts=sorts) for each in columns])
    found = node("table", node("caption", caption), node("thead", head), node("tbody", rows), class_="sorts" if sorts else None)
    return node("div", found, class_="scroll", tabindex=0, role="region", aria_label=caption)


def facts(pairs: Iterable[tuple[str, str | None]]) -> Element:
    """Return names and values; those that are None are left out."""
    return node(
        "dl", (node("div", node("dt", name), node("dd", value)) for name, value in pairs if value is not None), class_="facts"
    )


def _heading(found: Column, *, sorts: bool) -> Element:
    button = node("button", found.heading, type="button") if sorts and found.values is not None else found.heading
    return node("th", button, scope="col", class_="number" if found.numeric else None)


def _cell(found: Column, row: int, *, first: bool, sorts: bool) -> Element:
    value = None if found.values is None or not sorts else found.values[row]
    shown = None if value is None else repr(value) if isinstance(value, float) else str(value)
    tag, scope = ("th", "row") if first else ("td", None)
    return node(tag, found.cells[row], scope=scope, data_value=shown, class_="number" if found.numeric else None)
