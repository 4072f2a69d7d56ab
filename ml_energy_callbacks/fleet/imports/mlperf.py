"""MLPerf's power logs ``spl.txt``, as SPEC's PTDaemon writes them: the power at the wall, by an analyzer."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from ml_energy_callbacks.carbon.delimited import TextFile, to_number
from ml_energy_callbacks.fleet.imports.build import UTC_ASSUMED
from ml_energy_callbacks.fleet.imports.notes import LineNotes, whole_lines
from ml_energy_callbacks.fleet.imports.power_log import PowerRun
from ml_energy_callbacks.record.schema import RunRecord

TOOL = "mlperf"

_START = re.compile(r"Time,\d\d-\d\d-\d{4} \d\d:\d\d:\d\d")
_TIME = "%m-%d-%Y %H:%M:%S.%f"
_ANALYZER = re.compile(r"Analyzer identity response of \d+ bytes: (.*)")
_UNMARKED = "notset"
_NOTE = "Power at the wall; each mark of the log is a run."


def recognise(head: Sequence[str]) -> bool:
    """Return whether a file begins as a log of PTDaemon does."""
    return any(_START.match(line) for line in head)


def read(file: TextFile, notes: LineNotes) -> list[RunRecord]:
    """Return the runs of a file: each mark is one; rows without a mark are a run only where there are no others."""
    runs: dict[str, PowerRun] = {}
    analyzer = "power analyzer"
    for number, line in whole_lines(file, notes):
        text = line.strip()
        if identity := _ANALYZER.search(text):
            analyzer = identity[1]
        cells = text.split(",")
        if len(cells) < len(("Time", "", "Watts", "")) or cells[2] != "Watts":
            if text and _START.match(text) is None:
                notes.add(number, "is no reading of the power and is left out")
            continue
        try:
            time = datetime.strptime(cells[1], _TIME).replace(tzinfo=UTC)
            watts = to_number(cells[3], "the power")
        except ValueError:
            notes.add(number, "has a time or a power that cannot be read, and is left out")
            continue
        if "Mark" not in cells[:-1]:
            notes.add(number, "is cut off before its mark and is left out")
            continue
        mark = cells[cells.index("Mark") + 1]
        run = runs.setdefault(mark, PowerRun(time, number))
        run.add(number, time, "analyzer", analyzer, None if watts is not None and watts < 0 else watts, notes)
    marks = [mark for mark in runs if mark != _UNMARKED] or list(runs)
    if len(marks) < len(runs):
        notes.say(f"Rows of the mark {_UNMARKED} are outside of all measurements and are left out.")
    if runs:
        notes.say(UTC_ASSUMED)
    return [
        runs[mark].record(file, TOOL, None, kind="board", note=_NOTE, model=None if mark == _UNMARKED else mark)
        for mark in marks
    ]
