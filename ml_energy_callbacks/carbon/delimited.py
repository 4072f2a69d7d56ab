"""Tables in text files as other programs and spreadsheets write them: encodings, separators and decimal commas."""

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ml_energy_callbacks.exceptions import RecordError

_LONGEST_LINE = 1 << 20
"""In bytes; a longer one is in no log, and reading it would need much memory."""

_SEPARATORS = ",;\t|"
_DECIMAL_COMMA = ";\t"
"""Separators with which a spreadsheet writes 0,5 for 0.5."""

_UNKNOWN = {
    "",
    "nan",
    "n/a",
    "[n/a]",
    "na",
    "none",
    "null",
    "[not supported]",
    "[unknown error]",
    "[not available]",
    "[gpu is lost]",
}
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_HEAD = 40
_FOR_EXCEL = re.compile(r"sep=.?\s*")
"""A first line that tells a spreadsheet the separator of the others."""
_ENDS = ("\n", "\r")
_BYTES = "surrogateescape"
"""How bytes that are no UTF-8 are kept until their line is known."""

_DOTTED = ("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M")
"""How a spreadsheet in Europe writes a time; with slashes, day and month cannot be told apart."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file, which is read line by line.

    It is UTF-8, or UTF-16 as spreadsheets write it; a line that is neither is read as Windows-1252. Lines may end as on any
    system. A first line such as ``sep=;`` is read as an empty one.

    Attributes:
        path: The file.
    """

    path: Path

    def lines(self) -> Iterator[str]:
        """Yield its lines with their ends.

        Raises:
            RecordError: It cannot be read, or is no text.
        """
        try:
            with self.path.open("rb") as file:
                start = file.read(4)
            encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
            if encoding is None:
                encoding = "utf-16-le" if start[1::2] == b"\0\0" else "utf-8"
            errors = "replace" if encoding.startswith("utf-16") else _BYTES
            with self.path.open(encoding=encoding, errors=errors, newline="") as text:
                yield from self._short(map(_without_bytes, iter(lambda: text.readline(_LONGEST_LINE), "")))
        except IsADirectoryError:
            msg = f"{self.path} is a directory; give the files in it."
            raise RecordError(msg) from None
        except OSError as error:
            msg = f"{self.path} cannot be read: {error.strerror or error}."
            raise RecordError(msg) from None

    def _short(self, lines: Iterator[str]) -> Iterator[str]:
        for number, line in enumerate(lines, 1):
            if "\0" in line or (len(line) >= _LONGEST_LINE and not line.endswith(_ENDS)):
                raise self.error(number, "this is no text; give a log or a CSV file")
            yield "\n" if number == 1 and _FOR_EXCEL.fullmatch(line) else line

    def head(self) -> list[str]:
        """Return its first lines that are not empty, without ends and spaces around them."""
        return list(islice((text for line in self.lines() if (text := line.strip())), _HEAD))

    def changed_at(self) -> datetime:
        """Return when it was last written, in UTC."""
        return datetime.fromtimestamp(self.path.stat().st_mtime, UTC)

    def error(self, line: int, reason: str) -> RecordError:
        """Return the error of a line."""
        return RecordError(f"{self.path}, line {line}: {reason}.")


def _without_bytes(line: str) -> str:
    """Return a line whose bytes that are no UTF-8 are read as Windows-1252, with all of the line."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return line.encode(errors=_BYTES).decode("cp1252", "replace")
    return line


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        line: Number of its last line in the file.
        cells: Its cells, without spaces around them, by the names of their columns.
        comma: Whether its numbers may have decimal commas.
        part: How many headers precede it.
        ends: Whether its line has an end; the last one of a file that has none may be cut off in its last cell.
    """

    line: int
    cells: dict[str, str]
    comma: bool
    part: int
    ends: bool

    def number(self, column: str) -> float | None:
        """Return a cell as a number; None where the table lacks it, or it is unknown.

        Raises:
            ValueError: It is no number; the message says so.
        """
        return to_number(self.cells.get(column, ""), column, comma=self.comma)


def to_number(text: str, name: str, *, comma: bool = False) -> float | None:
    """Return a text as a number, or None where it says that there is none.

    Raises:
        ValueError: It is no number; the message says so.
    """
    if text.lower() in _UNKNOWN:
        return None
    try:
        value = float(text.replace(",", ".") if comma else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"{name} is {text!r}, which is no number"
        raise ValueError(msg)
    return value


def to_time(text: str) -> datetime:
    """Return a text as a time in UTC; one without an offset is UTC already.

    Raises:
        ValueError: It is no time; the message says so.
    """
    time = None
    try:
        time = datetime.fromisoformat(text.replace("/", "-"))
    except ValueError:
        for form in _DOTTED:
            try:
                time = datetime.strptime(text, form)  # noqa: DTZ007 - UTC below
            except ValueError:
                continue
    if time is None:
        msg = f"{text!r} is no time"
        raise ValueError(msg)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def separator_of(header: str) -> str:
    """Return the character that separates the cells of a header."""
    return max(_SEPARATORS, key=header.count)


def header_cells(line: str) -> list[str]:
    """Return the names of a header's columns."""
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator_of(line), skipinitialspace=True), [])]


def read_table(
    file: TextFile, is_header: Callable[[Sequence[str]], bool], leave_out: Callable[[int, str], None]
) -> Iterator[Row]:
    """Yield the rows of a table; a header in the middle of the file applies to the rows after it.

    Args:
        file: The file, whose first line that is not empty is a header.
        is_header: Returns whether these cells are a header.
        leave_out: Called with the number of a line that is left out, and why.

    Raises:
        RecordError: The file cannot be read as a table.
    """
    ends = True

    def watched(lines: Iterator[tuple[int, str]]) -> Iterator[str]:
        nonlocal ends
        for _, line in lines:
            ends = line.endswith(_ENDS)
            yield line

    lines = enumerate(file.lines(), 1)
    start, header = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    separator = separator_of(header)
    comma = separator in _DECIMAL_COMMA
    columns, part = header_cells(header), 1
    reader = csv.reader(watched(lines), delimiter=separator, skipinitialspace=True)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise file.error(start + reader.line_num, f"the table cannot be read ({error})") from None
        if cells is None:
            return
        line, cells = start + reader.line_num, [cell.strip() for cell in cells]
        if is_header(cells):
            columns, part = cells, part + 1
        elif len(cells) == len(columns):
            yield Row(line, dict(zip(columns, cells, strict=True)), comma, part, ends)
        elif any(cells):
            leave_out(line, f"has {len(cells)} of {len(columns)} cells and is left out")
