"""The output of ``dcgmi dmon -e 155,156``: power and energy counter of GPUs, with or without a time before each line."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ml_energy_callbacks.carbon.delimited import TextFile, to_number, to_time
from ml_energy_callbacks.fleet.imports.build import UTC_ASSUMED, device_record, run_record
from ml_energy_callbacks.fleet.imports.notes import LineNotes, whole_lines
from ml_energy_callbacks.fleet.imports.power_log import PowerRun
from ml_energy_callbacks.metrics import ratio
from ml_energy_callbacks.record.schema import ImportRecord, RunRecord

TOOL = "dcgm"

_HEADER = re.compile(r"^(?P<time>.*?)#\s*Entity\s+(?P<columns>.*)$")
_UNITS = re.compile(r"^.*?\bI[Dd]\s+[A-Za-z%/ -]*$")
_ROW = re.compile(r"^(?P<time>.*?)\s*\b(?P<entity>GPU(?:-\w+)?) (?P<id>\d+)\s+(?P<values>.*)$")
_POWER, _COUNTER = "POWER", "TOTEC"
_MILLI = 1000.0
_NO_TIMES = (
    "It has no times: its length is the energy by the counter over the mean power, and its end the time at which the file was "
    "last written."
)
_NEEDS = (
    "the lines have no times, without which power is no energy; dump the counter, too (dcgmi dmon -e 155,156), or put the time "
    "before each line (| ts '%Y-%m-%dT%H:%M:%.S')"
)


def recognise(head: Sequence[str]) -> bool:
    """Return whether a file begins as the output of dcgmi dmon does, with power or energy."""
    return any((found := _HEADER.match(line)) and {_POWER, _COUNTER} & set(found["columns"].split()) for line in head)


@dataclass(slots=True)
class _Gpu:
    """What is known of a GPU whose lines have no times."""

    readings: int = 0
    watts: float = 0.0
    counter: float | None = None
    joules: float | None = None
    resets: int = 0

    def count(self, joules: float) -> str | None:
        """Add a value of the counter in J; return what is wrong with it, or None."""
        before, self.counter = self.counter, joules
        if before is None:
            return None
        if joules < before:
            self.resets += 1
            return "has a counter that was reset; the energy between it and the row before is unknown"
        self.joules = (self.joules or 0.0) + joules - before
        return None


def read(file: TextFile, notes: LineNotes) -> list[RunRecord]:
    """Return the run of a file.

    Raises:
        RecordError: Its lines have no times, nor the counter by which its length is known.
    """
    dump = _Dump()
    for number, line in whole_lines(file, notes):
        text = line.strip()
        if header := _HEADER.match(text):
            dump.columns = header["columns"].split()
        elif found := _ROW.match(text):
            try:
                dump.add(number, found, notes)
            except ValueError as error:
                notes.add(number, f"{error}; the row is left out")
        elif text and _UNITS.match(text) is None:
            notes.add(number, "is no row of a GPU and is left out")
    if not dump.gpus:
        return []
    counters = {name: gpu.joules for name, gpu in dump.gpus.items() if gpu.joules is not None and not gpu.resets}
    if dump.run is None:
        return [_without_times(file, dump, counters, notes)]
    if _POWER not in dump.columns and len(counters) < len(dump.gpus):
        raise file.error(dump.line, "the energy counter was reset, and there is no power")
    notes.say(UTC_ASSUMED)
    return [dump.run.record(file, TOOL, None, kind="gpu", energy=counters)]


@dataclass(slots=True)
class _Dump:
    """What has been read of a file: the present columns, the GPUs by their numbers, and with times their power over time."""

    columns: list[str] = field(default_factory=list)
    gpus: dict[str, _Gpu] = field(default_factory=dict)
    run: PowerRun | None = None
    line: int = 0
    rows: int = 0

    def add(self, number: int, found: re.Match[str], notes: LineNotes) -> None:
        """Add a row.

        Raises:
            ValueError: It cannot be read; the message says why.
        """
        values = found["values"].split()
        if found["entity"] != "GPU":
            notes.add(number, "is a part of a GPU, whose energy is in that of the GPU, and is left out")
            return
        if len(values) != len(self.columns):
            msg = f"has {len(values)} of {len(self.columns)} values"
            raise ValueError(msg)
        cells = dict(zip(self.columns, values, strict=True))
        watts, counted = (to_number(cells.get(name, ""), name) for name in (_POWER, _COUNTER))
        time = _time(found["time"])
        self.line, self.rows = self.line or number, self.rows + 1
        gpu = self.gpus.setdefault(found["id"], _Gpu())
        if counted is not None and (fault := gpu.count(counted / _MILLI)):
            notes.add(number, fault)
        if watts is not None:
            gpu.readings, gpu.watts = gpu.readings + 1, gpu.watts + watts
        if time is not None:
            self.run = self.run or PowerRun(time, number)
            power = watts if _POWER in self.columns else 0.0
            self.run.add(number, time, found["id"], f"GPU {found['id']}", power, notes)


def _time(text: str) -> datetime | None:
    """Return the time before a line: ISO 8601, or seconds since 1970; None where there is none."""
    text = text.strip(" []\t,")
    if not text:
        return None
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        return to_time(text)


def _without_times(file: TextFile, dump: _Dump, counters: Mapping[str, float], notes: LineNotes) -> RunRecord:
    """Return the run of lines without times.

    Raises:
        RecordError: A GPU has no counter, or none has power.
    """
    lengths = [
        seconds
        for name, gpu in dump.gpus.items()
        if (seconds := ratio(counters.get(name), gpu.watts / gpu.readings if gpu.readings else None)) is not None
    ]
    if len(counters) < len(dump.gpus) or not lengths:
        raise file.error(dump.line, _NEEDS)
    notes.say(_NO_TIMES)
    seconds, ended = sorted(lengths)[len(lengths) // 2], file.changed_at()
    return run_record(
        ImportRecord(tool=TOOL, version=None, file=str(file.path), line=dump.line, rows=dump.rows),
        key=" ".join(dump.gpus),
        started_at=ended - timedelta(seconds=seconds),
        ended_at=ended,
        seconds=seconds,
        devices=[
            device_record(
                f"{TOOL}:{name}", f"GPU {name}", "gpu", joules, method="energy_counter", provenance="measured", missing_s=0.0
            )
            for name, joules in counters.items()
        ],
        joules=math.fsum(counters.values()),
    )
