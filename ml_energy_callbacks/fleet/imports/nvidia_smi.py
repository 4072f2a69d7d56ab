"""The output of ``nvidia-smi --query-gpu=timestamp,…,power.draw --format=csv -l 1``."""

from collections.abc import Sequence

from ml_energy_callbacks.carbon.delimited import Row, TextFile, header_cells, read_table, to_number, to_time
from ml_energy_callbacks.fleet.imports.build import UTC_ASSUMED
from ml_energy_callbacks.fleet.imports.notes import LineNotes, whole_rows
from ml_energy_callbacks.fleet.imports.power_log import PowerRun
from ml_energy_callbacks.record.schema import RunRecord

TOOL = "nvidia-smi"

_POWERS = ("power.draw", "power.draw.average", "power.draw.instant")
_IDS = ("uuid", "gpu_uuid", "serial", "gpu_serial", "pci.bus_id", "gpu_bus_id", "index")
_NAMES = ("name", "gpu_name")
_ONLY = "gpu"


def recognise(head: Sequence[str]) -> bool:
    """Return whether a file begins as nvidia-smi's tables of power do."""
    return _is_header(header_cells(head[0]))


def _is_header(cells: Sequence[str]) -> bool:
    return any(_bare(cell) in _POWERS for cell in cells)


def _bare(column: str) -> str:
    """Return the name of a column without its unit, such as ``power.draw`` of ``power.draw [W]``."""
    return column.partition(" [")[0]


def read(file: TextFile, notes: LineNotes) -> list[RunRecord]:
    """Return the runs of a file: each header begins one.

    Raises:
        RecordError: The table lacks the time of its rows, or what tells its GPUs apart.
    """
    runs: list[PowerRun] = []
    records: list[RunRecord] = []
    part, columns, version = 0, _Columns({}), None
    for row in whole_rows(read_table(file, _is_header, notes.add), notes):
        if row.part != part:
            if runs:
                records.append(_record(file, runs.pop(), version, columns))
            part, columns, version = row.part, _Columns(row.cells), row.cells.get("driver_version") or None
            if columns.time is None:
                raise file.error(row.line, "the table has no column timestamp; add it to --query-gpu")
        try:
            time = to_time(row.cells["timestamp"])
            watts = _watts(row, columns.power)
        except ValueError as error:
            notes.add(row.line, f"{error}; the row is left out")
            continue
        if not runs:
            runs.append(PowerRun(time, row.line))
        runs[0].add(row.line, time, columns.device(row), columns.name(row), watts, notes)
    if runs:
        records.append(_record(file, runs.pop(), version, columns))
    if records:
        notes.say(UTC_ASSUMED)
    return records


class _Columns:
    """The columns that a table has of those that are needed."""

    def __init__(self, cells: dict[str, str]) -> None:
        bare = {_bare(column): column for column in cells}
        self.time = bare.get("timestamp")
        self.power = next((bare[name] for name in _POWERS if name in bare), "")
        self.id = next((bare[name] for name in _IDS if name in bare), None)
        self._name = next((bare[name] for name in _NAMES if name in bare), None)

    def device(self, row: Row) -> str:
        return row.cells[self.id] if self.id else _ONLY

    def name(self, row: Row) -> str:
        return row.cells[self._name] if self._name else "GPU"


def _watts(row: Row, column: str) -> float | None:
    return to_number(row.cells[column].removesuffix(" W"), column, comma=row.comma)


def _record(file: TextFile, run: PowerRun, version: str | None, columns: _Columns) -> RunRecord:
    if columns.id is None and run.devices[_ONLY].interleaved:
        raise file.error(run.line, "rows of several GPUs cannot be told apart; add index or uuid to --query-gpu")
    return run.record(file, TOOL, version, kind="gpu")
