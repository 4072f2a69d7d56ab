"""What a benchmark found, as plain data.

Each section is a module with one function, `measure(scale: Scale, progress: Progress) -> Section`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Scale = Literal["smoke", "quick", "full"]
"""smoke: the harness alone, in seconds; quick: within 5 minutes on two cores with all the others; full: as long as it takes."""

Progress = Callable[[str], None]
"""Is told what is measured now, in a few words."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure, or the reason why there is none.

    Attributes:
        value: The figure, most often a median; None where there is none, and then `note` says why.
        low: Lower end of its 95 % interval, or of the range of few values; None where it has none.
        high: Upper end.
        unit: Such as `µs`; empty for a plain number.
        note: The reason of a missing figure in a sentence, or a remark on it.
        count: Of how many values it is made; None where it is no statistic.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    note: str = ""
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first column names the row.

    Attributes:
        title: What it shows.
        columns: Names of the columns, without that of the rows.
        rows: Cells by the row's name, one for each column.
        command: What to run to get it again.
        about: What was done, and how to read it, in a few sentences.
    """

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Cell]]
    command: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """What was promised, and what was found.

    Attributes:
        name: Of what.
        asked: The bar in words, such as `at most 3 µs`.
        got: The figure in words, with its interval where it has one.
        held: Whether it holds; None where it could not be told, and `got` says why.
    """

    name: str
    asked: str
    got: str
    held: bool | None


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over one axis.

    Attributes:
        name: Of the file, without its ending.
        title: What it shows.
        x: Label of the horizontal axis.
        y: Label of the vertical one.
        lines: Points (x, y) by the line's name; a y of None is a gap.
        log_x: Whether that axis is logarithmic.
        log_y: The same.
    """

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float | None]]]
    log_x: bool = True
    log_y: bool = True


@dataclass(frozen=True, slots=True)
class Section:
    """What one module found."""

    tables: Sequence[Table]
    bars: Sequence[Bar] = ()
    plots: Sequence[Plot] = field(default=())
