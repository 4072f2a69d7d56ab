"""What was left out of a file, and with which line; bounded, however long the file is."""

from collections.abc import Iterator

from ml_energy_callbacks.carbon.delimited import Row, TextFile

_NAMED, _SENTENCES = 3, 50
_CUT = "has no end, so that it may be cut off, and is left out"


class LineNotes:
    """Sentences about lines of a file; lines of which the same is said share one sentence."""

    def __init__(self) -> None:
        """Begin without any."""
        self._lines: dict[str, list[int]] = {}
        self._counts: dict[str, int] = {}
        self._others = 0

    def add(self, line: int, what: str) -> None:
        """Add what has to be said of a line: a predicate such as ``is left out``."""
        if what not in self._lines and len(self._lines) >= _SENTENCES:
            self._others += 1
            return
        named = self._lines.setdefault(what, [])
        self._counts[what] = self._counts.get(what, 0) + 1
        if len(named) < _NAMED:
            named.append(line)

    def say(self, sentence: str) -> None:
        """Add a sentence about the whole file."""
        self._lines.setdefault(sentence, [])

    def sentences(self) -> Iterator[str]:
        """Yield the sentences, in the order in which they first applied."""
        for what, lines in self._lines.items():
            if not lines:
                yield what
                continue
            more = self._counts[what] - len(lines)
            others = f" and {more:,} more" if more else ""
            yield f"Line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines))}{others}: {what}."
        if self._others:
            yield f"The same applies to {self._others:,} further lines, each with other figures."


def whole_lines(file: TextFile, notes: LineNotes) -> Iterator[tuple[int, str]]:
    """Yield the lines of a log with their numbers, without the last one where it has no end."""
    for number, line in enumerate(file.lines(), 1):
        if line.endswith(("\n", "\r")):
            yield number, line
        else:
            notes.add(number, _CUT)


def whole_rows(rows: Iterator[Row], notes: LineNotes) -> Iterator[Row]:
    """Yield the rows of a table whose last column is a figure, without the last one where its line has no end."""
    for row in rows:
        if row.ends:
            yield row
        else:
            notes.add(row.line, _CUT)
