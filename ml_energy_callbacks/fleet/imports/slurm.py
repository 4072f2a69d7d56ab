"""SLURM's ``sacct --format=JobID,Start,ElapsedRaw,ConsumedEnergyRaw,…``, with ``--parsable``, in columns, or as JSON."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from ml_energy_callbacks.carbon.delimited import Row, TextFile, read_table, to_number, to_time
from ml_energy_callbacks.fleet.imports.build import UTC_ASSUMED, device_record, run_record
from ml_energy_callbacks.fleet.imports.notes import LineNotes, whole_lines, whole_rows
from ml_energy_callbacks.fleet.imports.slurm_json import VERSION, is_json, json_rows
from ml_energy_callbacks.record.schema import ImportRecord, RunRecord, Status

TOOL = "slurm"

_IDS, _RAW, _ROUNDED = ("JobID", "JobIDRaw"), "ConsumedEnergyRaw", "ConsumedEnergy"
_OTHERS = {_RAW, _ROUNDED, "State", "JobName", "Elapsed", "ElapsedRaw"}
_NODES = ("NNodes", "AllocNodes")
_CALL = "call sacct with --parsable2 --format=JobID,JobName,State,Start,ElapsedRaw,NNodes,ConsumedEnergyRaw"
_DASHES = re.compile(r"-+( +-+)+ *")
_ELAPSED = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_PREFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_NO_VALUE = 1e18
"""SLURM writes the largest numbers of 64 bits where there is no energy."""

_STATES: dict[str, Status] = {"COMPLETED": "completed", "RUNNING": "running", "COMPLETING": "running", "CANCELLED": "stopped"}
_NOWHERE = "None assigned"
_NOTE = (
    "Energy of the job's whole nodes as the cluster's plug-in reads it (RAPL, IPMI, ...), which is the job's own if it had "
    "them to itself."
)


def recognise(head: Sequence[str]) -> bool:
    """Return whether a file begins as the output of sacct does."""
    if is_json(head[0]):
        return any('"jobs"' in line or '"slurm"' in line.lower() for line in head)
    return _is_header(re.split(rf"[{re.escape('|,;')}\s]+", head[0]))


def _is_header(cells: Sequence[str]) -> bool:
    return any(name in cells for name in _IDS) and not _OTHERS.isdisjoint(cells)


@dataclass(slots=True)
class _Job:
    """A job: its own row, and the energy of its steps by their names."""

    id: str
    row: Row
    joules: float | None = None
    steps: dict[str, float] = field(default_factory=dict)
    rows: int = 0


def read(file: TextFile, notes: LineNotes) -> list[RunRecord]:
    """Return the jobs of a file.

    Raises:
        RecordError: A column that is needed is missing, or the JSON is damaged.
    """
    dumped = is_json(file.head()[0])
    records: list[RunRecord] = []
    job: _Job | None = None
    for row in json_rows(file) if dumped else _rows(file, notes):
        _check_columns(file, row)
        own, _, step = next(row.cells[name] for name in _IDS if name in row.cells).partition(".")
        try:
            joules = _energy(row, notes)
            if not step:
                if "Unknown" in (row.cells.get("Start"), row.cells.get("End")) and _elapsed(row) == 0:
                    notes.add(row.line, "is a job that has not run and is left out")
                    continue
                to_time(row.cells.get("Start") or row.cells["End"])
            _elapsed(row)
        except ValueError as error:
            notes.add(row.line, f"{error}; the row is left out")
            continue
        if job is None or own != job.id or not step:
            records += _records(file, job, notes)
            job = _Job(own, row)
        job.rows += 1
        if not step:
            job.joules = joules
        elif joules is not None:
            job.steps[step] = job.steps.get(step, 0.0) + joules
    records += _records(file, job, notes)
    if records and not dumped:
        notes.say(UTC_ASSUMED)
    return records


def _rows(file: TextFile, notes: LineNotes) -> Iterator[Row]:
    lines = (line for line in file.lines() if line.strip())
    header, dashes = next(lines, ""), next(lines, "").rstrip()
    if not _DASHES.fullmatch(dashes) and dashes.strip("-"):
        yield from whole_rows(read_table(file, _is_header, notes.add), notes)
        return
    spans: list[tuple[int, int | None]] = [match.span() for match in re.finditer("-+", dashes)]
    spans[-1] = (spans[-1][0], None)  # a long number may be longer than its column
    names = [header[begin:end].strip() for begin, end in spans]
    for number, line in whole_lines(file, notes):
        cells = [line[begin:end].strip() for begin, end in spans]
        if not line.strip() or cells == names or not line.strip(" -\n"):
            continue
        if any(cell.endswith("+") for cell in cells[:1]) or len(line.rstrip("\n")) < spans[-1][0]:
            notes.add(number, "is cut off, so that its job is not known, and is left out; use sacct --parsable2")
            continue
        yield Row(number, dict(zip(names, cells, strict=True)), comma=False, part=1, ends=True)


def _check_columns(file: TextFile, row: Row) -> None:
    if not {_RAW, _ROUNDED} & row.cells.keys():
        raise file.error(1, f"the table lacks energy; {_CALL}")
    if not {"Start", "End"} & row.cells.keys() or not {"Elapsed", "ElapsedRaw"} & row.cells.keys():
        raise file.error(1, f"the table lacks times; {_CALL}")


def _energy(row: Row, notes: LineNotes) -> float | None:
    """Return the energy of a row in J; None where SLURM has none."""
    text = row.cells.get(_RAW, "") or row.cells.get(_ROUNDED, "")
    number, prefix = (text[:-1], text[-1].upper()) if text[-1:].upper() in _PREFIXES and text else (text, "")
    value = to_number(number, _RAW)
    if value is None:
        return None
    joules = value * _PREFIXES[prefix]
    if joules >= _NO_VALUE or joules < 0:
        notes.add(row.line, "has SLURM's mark for no energy, which is unknown")
        return None
    if joules == 0:
        if _elapsed(row):
            notes.add(row.line, "has 0 J, as where SLURM reads no energy, which is unknown")
        return None
    if prefix:
        notes.add(row.line, "has a rounded energy; ConsumedEnergyRaw is exact")
    return joules


def _elapsed(row: Row) -> float:
    raw = row.cells.get("ElapsedRaw")
    if raw:
        return to_number(raw, "ElapsedRaw") or 0.0
    found = _ELAPSED.fullmatch(row.cells.get("Elapsed", ""))
    if found is None:
        msg = f"Elapsed is {row.cells.get('Elapsed', '')!r}, which is no time"
        raise ValueError(msg)
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds


def _whole(job: _Job, nodes: int, notes: LineNotes) -> tuple[float | None, bool]:
    """Return the energy of a job in J, and whether a part is missing.

    Steps that run at the same time on one node each count all of it, so that they are not added to each other where one of
    them covers the whole job.
    """
    if job.joules is not None:
        return job.joules, False
    if "extern" in job.steps:
        return job.steps["extern"], False
    if "batch" in job.steps and nodes <= 1:
        return job.steps["batch"], False
    numbered = [joules for name, joules in job.steps.items() if name != "batch"]
    if numbered:
        notes.add(job.row.line, "is a job with the energy of its steps alone; that between them is missing")
        return math.fsum(numbered), True
    return job.steps.get("batch"), "batch" in job.steps


def _records(file: TextFile, job: _Job | None, notes: LineNotes) -> Iterator[RunRecord]:
    if job is None:
        return
    cells = job.row.cells
    nodes = round(to_number(next((cells[name] for name in _NODES if cells.get(name)), ""), "NNodes") or 1)
    joules, incomplete = _whole(job, nodes, notes)
    seconds = _elapsed(job.row)
    begins = cells.get("Start")
    started = to_time(begins) if begins else to_time(cells["End"]) - timedelta(seconds=seconds)
    state = cells.get("State", "COMPLETED").split(" ")[0].rstrip("+")
    status = _STATES.get(state, "failed")
    yield run_record(
        ImportRecord(tool=TOOL, version=cells.get(VERSION) or None, file=str(file.path), line=job.row.line, rows=job.rows),
        key=job.id,
        started_at=started,
        seconds=seconds,
        devices=[
            device_record(
                f"{TOOL}:nodes",
                "nodes",
                "board",
                joules,
                method="energy_counter",
                provenance="measured",
                note=_NOTE,
                count=nodes,
            )
        ],
        joules=joules,
        incomplete=incomplete,
        status=status,
        reason=state if status in {"failed", "stopped"} else None,
        model=cells.get("JobName") or None,
        hostnames=[cells["NodeList"]] if cells.get("NodeList", _NOWHERE) not in {"", _NOWHERE} else [],
        launcher="slurm",
        job_id=job.id,
    )
