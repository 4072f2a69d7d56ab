"""The runs that an audit looks at: records, and the logs of other tools."""

import re
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from ml_energy_callbacks.carbon.delimited import TextFile, read_table
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.fleet.audit.findings import AuditedRun, Finding
from ml_energy_callbacks.fleet.imports import codecarbon, import_file
from ml_energy_callbacks.fleet.imports.build import UTC_ASSUMED
from ml_energy_callbacks.fleet.reading import load_whole
from ml_energy_callbacks.record.find import THREADS, RecordFile, find_files, is_record_name

_LOGS = ("emissions*.csv", "*_carbontracker.log", "spl.txt")
"""Names that tools give to their logs; others, such as those of nvidia-smi, have to be given themselves."""

_UNUSABLE = re.compile(r"; the (run|row|line) is left out\.$")
"""How the import of a log says that a figure is impossible, such as a negative energy, or is no figure."""

_LEFT_OUT = "A log has figures that cannot be used."
_MEND = "Look at these lines, and at what the tool said when it wrote them; their energy is in no total."


@dataclass(slots=True)
class Gathered:
    """The runs below some paths.

    Attributes:
        runs: The runs, each once.
        unusable: Lines of logs with figures that are impossible, or are none.
        unreadable: A sentence for each file that could not be read.
        notes: What was left out or assumed of logs, and directories that cannot be listed.
    """

    runs: list[AuditedRun] = field(default_factory=list)
    unusable: list[Finding] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(paths: Sequence[str]) -> Gathered:
    """Return the runs below some paths.

    A run that is there as its own record, as a log and as the record of that log counts once, in this order.

    Raises:
        RecordError: There is nothing at one of the paths.
        ConfigurationError: A URL needs a package that is missing, or cannot be listed.
    """
    found = Gathered()
    runs: dict[str, AuditedRun] = {}
    files = find_files(paths, lambda folder: found.notes.append(f"{folder} cannot be listed."), _is_named)
    with ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(_read, files):
            for run in part.runs:
                known = runs.get(run.record.run.id)
                if known is None or _rank(run) < _rank(known):
                    runs[run.record.run.id] = run
            found.unusable += part.unusable
            found.unreadable += part.unreadable
            found.notes += part.notes
    found.runs = list(runs.values())
    return found


def _is_named(name: str) -> bool:
    return is_record_name(name) or any(fnmatchcase(name, pattern) for pattern in _LOGS)


def _rank(run: AuditedRun) -> tuple[bool, bool, float]:
    return run.record.imported is not None, not run.log, -run.seconds


def _read(file: RecordFile) -> Gathered:
    """Return what a file has: the run of a record, or those of a log and what its import says."""
    try:
        if not isinstance(file.place, Path) or _is_record(file.place):
            return Gathered([AuditedRun(load_whole(file), file.name)])
        imported = import_file(file.place)
    except RecordError as error:
        return Gathered(unreadable=[str(error)])
    found = Gathered()
    for note in imported.notes:
        if _UNUSABLE.search(note):
            found.unusable.append(
                Finding(check="unusable-lines", severity="wrong", runs=[file.name], what=_LEFT_OUT, evidence=note, advice=_MEND)
            )
        elif note != UTC_ASSUMED:
            found.notes.append(f"{file.name}: {note}")
    lines = [0 if record.imported is None else record.imported.line for record in imported.records]
    carbon = any(record.run.framework.startswith(codecarbon.TOOL) for record in imported.records)
    cells = _cells(file.place, set(lines)) if carbon else {}
    for record, line in zip(imported.records, lines, strict=True):
        found.runs.append(AuditedRun(record, f"{file.name}:{line}", log=True, cells=cells.get(line, {})))
    return found


def _is_record(path: Path) -> bool:
    """Return whether a file is a run record: by its name, or as it has the version of a record's schema."""
    return is_record_name(path.name) or any('"schema_version"' in line for line in TextFile(path).head())


def _cells(path: Path, lines: Container[int]) -> Mapping[int, Mapping[str, str]]:
    """Return rows of a table of codecarbon by their lines."""
    rows = read_table(TextFile(path), lambda cells: {"emissions", "duration"} <= set(cells), lambda *_: None)
    return {row.line: row.cells for row in rows if row.line in lines}
