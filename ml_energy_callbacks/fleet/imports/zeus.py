"""Zeus: the CSV of a ZeusMonitor's ``log_file``, and as JSON its measurements and the profile of its power limits."""

import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from ml_energy_callbacks.carbon.delimited import Row, TextFile, header_cells, read_table
from ml_energy_callbacks.fleet.imports.build import MOST_PARTS, device_record, run_record, stage_part
from ml_energy_callbacks.fleet.imports.notes import LineNotes, whole_rows
from ml_energy_callbacks.readings import Kind
from ml_energy_callbacks.record.schema import DeviceRecord, ImportRecord, RunRecord, StageRecord

TOOL = "zeus"

_TIME, _WINDOW, _ELAPSED = "start_time", "window_name", "elapsed_time"
_GPU = re.compile(r"gpu(\d+)_energy")
_NO_DATE = "It has no date; the time at which the file was last written is used."
_CLOSE_S = 0.01
"""A window may seem to begin or end so long outside of the one around it: Zeus reads several GPUs one after another."""


class _Measurement(msgspec.Struct):
    time: float
    gpu_energy: dict[str, float]
    cpu_energy: dict[str, float] | None = None
    dram_energy: dict[str, float] | None = None


class _AtLimit(msgspec.Struct):
    power_limit: int
    energy: float
    time: float


class _Profile(msgspec.Struct):
    measurements: list[_AtLimit]


_JSON = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MEASUREMENT, _PROFILE = msgspec.json.Decoder(_Measurement), msgspec.json.Decoder(_Profile)


def recognise(head: Sequence[str]) -> bool:
    """Return whether a file begins as Zeus's do."""
    if head[0].startswith("{"):
        return any('"gpu_energy"' in line or '"power_limit"' in line for line in head)
    return _is_header(header_cells(head[0]))


def _is_header(cells: Sequence[str]) -> bool:
    return {_TIME, _WINDOW, _ELAPSED} <= set(cells)


def read(file: TextFile, notes: LineNotes) -> list[RunRecord]:
    """Return the run of a monitor's log, or those of a JSON file.

    Raises:
        RecordError: The JSON is damaged.
    """
    lines = file.lines()
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("{"):
        return _read_json(file, "".join((first, *lines)), notes)
    log: _Log | None = None
    for row in whole_rows(read_table(file, _is_header, notes.add), notes):
        try:
            window = _window(row)
        except ValueError as error:
            notes.add(row.line, f"{error}; the row is left out")
            continue
        if log is None:
            log = _Log(sorted(window.joules), row.line)
        if sorted(window.joules) != log.gpus:
            notes.add(row.line, "has other GPUs than the rows above and is left out")
            continue
        log.add(row.line, window, notes)
    return [] if log is None else [log.record(file)]


@dataclass(frozen=True, slots=True)
class _Window:
    name: str
    began: float
    seconds: float
    joules: dict[str, float]


def _window(row: Row) -> _Window:
    began, seconds = row.number(_TIME), row.number(_ELAPSED)
    joules = {found[1]: row.number(column) for column in row.cells if (found := _GPU.fullmatch(column))}
    known = {gpu: energy for gpu, energy in joules.items() if energy is not None and energy >= 0}
    if began is None or seconds is None or seconds < 0 or len(known) < len(joules):
        msg = "has a time or an energy that is missing or negative"
        raise ValueError(msg)
    return _Window(row.cells[_WINDOW], began, seconds, known)


@dataclass(slots=True)
class _Log:
    """The windows that are in no other window. A log has them in the order of their ends."""

    gpus: list[str]
    line: int
    rows: int = 0
    incomplete: bool = False
    _began: "array[float]" = field(default_factory=lambda: array("d"))
    _seconds: "array[float]" = field(default_factory=lambda: array("d"))
    _joules: "array[float]" = field(default_factory=lambda: array("d"))  # of each GPU in turn
    _windows: "array[int]" = field(default_factory=lambda: array("q"))
    _names: dict[str, int] = field(default_factory=dict)

    def add(self, line: int, window: _Window, notes: LineNotes) -> None:
        """Add a window; those in it are no longer counted on their own, and one that overlaps the one before is not counted."""
        self.rows += 1
        end = window.began + window.seconds
        if self._began and self._began[-1] + self._seconds[-1] > end + _CLOSE_S:
            notes.add(line, "ends before the window above and is left out")
            self.incomplete = True
            return
        while self._began and self._began[-1] >= window.began - _CLOSE_S:
            for column in (self._began, self._seconds, self._windows):
                column.pop()
            del self._joules[len(self._joules) - len(self.gpus) :]
        if self._began and self._began[-1] + self._seconds[-1] > window.began + _CLOSE_S:
            notes.add(line, "overlaps the window above, so that their energies cannot be added, and is left out")
            self.incomplete = True
            return
        self._began.append(window.began)
        self._seconds.append(window.seconds)
        self._windows.append(self._names.setdefault(window.name, len(self._names)) if len(self._names) <= MOST_PARTS else 0)
        self._joules.extend(window.joules[gpu] for gpu in self.gpus)

    def record(self, file: TextFile) -> RunRecord:
        """Return the record, with the windows of each name as a part."""
        began, end = self._began[0], self._began[-1] + self._seconds[-1]
        count = len(self.gpus)
        devices = [_gpu(gpu, math.fsum(self._joules[index::count])) for index, gpu in enumerate(self.gpus)]
        return run_record(
            ImportRecord(tool=TOOL, version=None, file=str(file.path), line=self.line, rows=self.rows),
            key=" ".join(self.gpus),
            started_at=datetime.fromtimestamp(began, UTC),
            ended_at=datetime.fromtimestamp(end, UTC),
            seconds=math.fsum(self._seconds),
            devices=devices,
            joules=math.fsum(self._joules) if devices else None,
            incomplete=self.incomplete,
            parts={name: self._part(window) for name, window in self._names.items() if window in self._windows}
            if len(self._names) <= MOST_PARTS
            else {},
        )

    def _part(self, window: int) -> StageRecord:
        places = [place for place, own in enumerate(self._windows) if own == window]
        count = len(self.gpus)
        joules = {
            f"{TOOL}:gpu-{gpu}": math.fsum(self._joules[place * count + index] for place in places)
            for index, gpu in enumerate(self.gpus)
        }
        seconds = math.fsum(self._seconds[place] for place in places)
        return stage_part(math.fsum(joules.values()) if joules else None, seconds, joules, "measured" if joules else None)


def _gpu(gpu: str, joules: float) -> DeviceRecord:
    return _device(f"gpu-{gpu}", f"GPU {gpu}", "gpu", joules)


def _device(name: str, model: str, kind: Kind, joules: float) -> DeviceRecord:
    return device_record(f"{TOOL}:{name}", model, kind, joules, method="energy_counter", provenance="measured")


def _read_json(file: TextFile, text: str, notes: LineNotes) -> list[RunRecord]:
    try:
        found = _JSON.decode(text)
        if "measurements" in found:
            records = [_at_limit(file, one) for one in _PROFILE.decode(text).measurements]
        else:
            records = [_measurement(file, _MEASUREMENT.decode(text))]
    except ValueError as error:
        raise file.error(1, f"the JSON is no measurement of Zeus ({str(error).rstrip('.')})") from None
    if records:
        notes.say(_NO_DATE)
    return records


def _at_limit(file: TextFile, one: _AtLimit) -> RunRecord:
    return _json_record(
        file, one.time, [_device("gpus", "GPUs", "gpu", one.energy)], {"power_limit_watts": str(one.power_limit)}
    )


def _measurement(file: TextFile, one: _Measurement) -> RunRecord:
    devices = [_gpu(gpu, joules) for gpu, joules in one.gpu_energy.items()]
    devices += [_device(f"cpu-{cpu}", f"CPU {cpu}", "cpu", joules) for cpu, joules in (one.cpu_energy or {}).items()]
    devices += [_device(f"dram-{cpu}", f"Memory {cpu}", "dram", joules) for cpu, joules in (one.dram_energy or {}).items()]
    return _json_record(file, one.time, devices, {})


def _json_record(file: TextFile, seconds: float, devices: Sequence[DeviceRecord], tags: dict[str, str]) -> RunRecord:
    if seconds < 0 or any((device.joules or 0.0) < 0 for device in devices):
        msg = "a time or an energy is negative"
        raise ValueError(msg)
    ended = file.changed_at()
    return run_record(
        ImportRecord(tool=TOOL, version=None, file=str(file.path), line=1, rows=1),
        key=str(tags),
        started_at=ended - timedelta(seconds=seconds),
        ended_at=ended,
        seconds=seconds,
        devices=devices,
        joules=math.fsum(device.joules or 0.0 for device in devices) if devices else None,
        tags=tags,
    )
