"""The results of a benchmark, as plain data.

Each section is a module with one function, `measure(scale: Scale, progress: Progress) -> Section`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Scale = Literal["smoke", "quick", "full"]
"""smoke: only the harness, in seconds; quick: all sections within 5 minutes on two cores; full: no time limit."""

Progress = Callable[[str], None]
"""Called with a short description of the current measurement."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One value, or the reason why there is none.

    Attributes:
        value: The value, usually a median; None if there is none, and then `note` is the reason.
        low: Lower end of its 95 % interval, or of the range of few values; None if it has neither.
        high: Upper end.
        unit: Such as `µs`; empty for a plain number.
        note: The reason of a missing value in a sentence, or a note on the value.
        count: Number of values behind it; None if it is not a statistic.
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
        command: The command that repeats it.
        about: What was measured, and how to read the table, in a few sentences.
    """

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Cell]]
    command: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A target and the result.

    Attributes:
        name: What the target is for.
        asked: The target as text, such as `at most 3 µs`.
        got: The result as text, with its interval if it has one.
        held: Whether the target is met; None if it could not be decided, and then `got` is the reason.
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
    """The results of one module."""

    tables: Sequence[Table]
    bars: Sequence[Bar] = ()
    plots: Sequence[Plot] = field(default=())
