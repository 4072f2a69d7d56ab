"""A table that fits the terminal: columns that have no room are left out, the least important first; no cell loses a digit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions
from rich.table import Table

_PADDING = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        head: Its header, of one or two lines.
        texts: Its cells, one for each row; each of one or more lines.
        rank: The smaller, the longer it stays where there is little room; 0 for always.
        left: Whether it is aligned to the left.
    """

    head: str
    texts: Sequence[str]
    rank: int = 0
    left: bool = False

    @property
    def width(self) -> int:
        """Width in characters."""
        return max(len(line) for text in (self.head, *self.texts) for line in text.split("\n"))


@dataclass(frozen=True, slots=True)
class FittedTable:
    """A table of columns, some of which are left out in a narrow terminal.

    Attributes:
        columns: All columns, in order.
        sections: Rows after which a section ends, counted from 1.
        title: A line above the table, or None.
    """

    columns: Sequence[Column]
    sections: Sequence[int] = ()
    title: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yield the table of the columns that fit."""
        shown = list(self.columns)
        while sum(column.width + _PADDING for column in shown) > options.max_width:
            last = max(shown, key=lambda column: column.rank)
            if not last.rank:
                break
            shown.remove(last)
        table = Table(title=self.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column in shown:
            table.add_column(column.head, justify="left" if column.left else "right", overflow="fold", vertical="top")
        for i, row in enumerate(zip(*(column.texts for column in shown), strict=True), 1):
            table.add_row(*row, end_section=i in self.sections)
        yield table
