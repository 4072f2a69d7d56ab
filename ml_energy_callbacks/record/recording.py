"""The lines of a recording: the marks and readings of a run as JSON lines, from which its record is computed again.

The first line is a :class:`Start`. Times are those of the recorded run's monotonic clock, in ns.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from heapq import merge
from importlib.metadata import PackageNotFoundError, version
from math import inf
from typing import Annotated, Final, Literal, NoReturn

import msgspec

from ml_energy_callbacks.exceptions import RecordError, VersionError
from ml_energy_callbacks.metrics import Phase, Stage
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.record.schema import Amount, Count, Status
from ml_energy_callbacks.record.storage import in_one_line, local_path

FORMAT: Final = 1
"""Version of the lines; a release reads its own alone."""

Instant = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A monotonic clock in ns."""


def package_version() -> str:
    """Return the version of this package, or ``unknown`` where its metadata cannot be read."""
    try:
        return version("ml-energy-callbacks")
    except PackageNotFoundError:
        return "unknown"


class Start(msgspec.Struct, kw_only=True, tag_field="line", tag="start", omit_defaults=True):
    """A start of the meter; a meter can be started several times.

    Attributes:
        format: Version of the lines.
        package: Version of the package that wrote them.
        ns: When the run began.
        started_at: Time of day then, ISO 8601 with offset.
        framework: As in the record.
        sample_interval: Mean time between two reads of a device, in s.
        devices: The devices that are read.
        incomplete: Whether the energy of a device that belongs to the run could not be read.
    """

    format: int = FORMAT
    package: str
    ns: Instant
    started_at: str
    framework: str = "none"
    sample_interval: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.05
    devices: list[Device]
    incomplete: bool = False


class Mark(msgspec.Struct, kw_only=True, tag_field="line", tag="mark", omit_defaults=True):
    """An event of the loop, as in :data:`ml_energy_callbacks.attribution.timeline.Event`.

    Attributes:
        ns: When it counted.
        kind: Kind of the event.
        stage: Stage that runs from then on; None outside the run.
        phase: Phase of that stage.
        batches: Batches that ended.
        samples: Their samples; None where that is unknown.
        begun: Begin of a batch that may overlap others, where it ends: when, and the stage and phase that ran meanwhile.
    """

    ns: Instant
    kind: Literal["switch", "batches", "begin", "end", "samples"] = "switch"
    stage: Stage | None = None
    phase: Phase = "other"
    batches: Annotated[int, msgspec.Meta(ge=-(10**18), le=10**18)] = 0
    samples: Count | None = None
    begun: tuple[Instant, Stage | None, Phase] | None = None


class Polled(msgspec.Struct, array_like=True):
    """One reading of a device.

    Attributes:
        started_ns: Clock just before the read.
        ended_ns: Clock just after it.
        value: Joules or watts, by the device's method; None where the read failed.
        power_ns: When the power beside a counter was read.
        watts: That power; None where it was not read.
    """

    started_ns: Instant
    ended_ns: Instant
    value: float | None
    power_ns: Instant = 0
    watts: float | None = None


class Readings(msgspec.Struct, kw_only=True, tag_field="line", tag="readings"):
    """Readings that were added to the ledgers together.

    Attributes:
        ns: When they were added.
        devices: The readings of each device, by its id, oldest first.
    """

    ns: Instant
    devices: dict[str, list[Polled]]


class Uncertainty(msgspec.Struct, kw_only=True, tag_field="line", tag="uncertainty"):
    """The uncertainty of a device from then on, where it depends on the load."""

    ns: Instant
    device: str
    relative_uncertainty: Amount


class Fit(msgspec.Struct, kw_only=True, tag_field="line", tag="fit"):
    """Fits of the phases' power to all readings so far, by which later readings are divided."""

    ns: Instant


class Close(msgspec.Struct, kw_only=True, tag_field="line", tag="close"):
    """The end of reading these devices, by their ids."""

    ns: Instant
    devices: list[str]


class Idle(msgspec.Struct, kw_only=True, tag_field="line", tag="idle"):
    """The idle power of devices in W, by their ids, as it was measured before the run."""

    ns: Instant
    watts: dict[str, float]


class Stop(msgspec.Struct, kw_only=True, tag_field="line", tag="stop"):
    """The end of the run; readings of the time after it follow."""

    ns: Instant
    status: Status


Line = Start | Mark | Readings | Uncertainty | Fit | Close | Idle | Stop

_LINE: Final = msgspec.json.Decoder(Line)
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_FIRST_YEAR, _LAST_YEAR = 1970, 3000
_NOT_FIRST = "its first line is not the start of a run; make one with EnergyMeter(recording='raw.jsonl')"


class Recording:
    """A file of such lines, which is read anew each time they are asked for.

    Attributes:
        first: Its first line.
        cut: Whether its last line was not complete, as after the end of a process that was killed; it is left out.

    Args:
        path: The file.

    Raises:
        RecordError: It cannot be read, or is no recording.
        VersionError: It is of another release, whose lines are others.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the first line."""
        self._path = local_path(path)
        self.cut = False
        try:
            if not stat.S_ISREG(self._path.stat().st_mode):
                self._refuse("it is not a regular file")
        except OSError as error:
            self._refuse(in_one_line(error))
        first = next(self._read(), None)
        if not isinstance(first, Start):
            self._refuse(_NOT_FIRST)
        self.first: Start = first

    def lines(self) -> Iterator[Line]:
        """Yield the lines in the order of their times; the file has each mark after it has counted, as late as readings have.

        Raises:
            RecordError: A line is damaged or contradicts those before it.
        """
        marks = (line for line in self._read() if isinstance(line, Mark))
        others = (line for line in self._read() if not isinstance(line, Mark))
        return merge(self._checked(marks), self._checked(others), key=_turn)

    def _checked(self, lines: Iterable[Line]) -> Iterator[Line]:
        now = 0
        read: dict[str, int] = {}  # until when the devices of the last start were read
        for line in lines:
            if line.ns < now:
                self._refuse(f"the times of its lines run backwards, from {now} to {line.ns} ns")
            now = line.ns
            if isinstance(line, Start):
                read = {device.id: 0 for device in line.devices}
            elif isinstance(line, Readings):
                for name, readings in line.devices.items():
                    read[name] = self._check_readings(name, readings, read.get(name))
            yield line

    def _check_readings(self, name: str, readings: Sequence[Polled], until: int | None) -> int:
        """Check readings of a device that was read until this instant (ns); return until when it is now."""
        if until is None:
            self._refuse(f"it has readings of {name}, which is none of the devices of its start")
        for reading in readings:
            if not until <= reading.started_ns <= reading.ended_ns:
                self._refuse(f"the times of {name}'s readings run backwards, from {until} to {reading.started_ns} ns")
            until = reading.ended_ns
        return until

    def _read(self) -> Iterator[Line]:
        try:
            with self._path.open("rb") as file:
                for number, source in enumerate(file, start=1):
                    if number > 1 and not source.endswith(b"\n"):
                        self.cut = True
                        return
                    yield self._decode(source, number)
        except OSError as error:
            self._refuse(in_one_line(error))

    def _decode(self, source: bytes, number: int) -> Line:
        try:
            line: Line = _LINE.decode(source)
        except _UNREADABLE as error:
            reason = _NOT_FIRST if number == 1 else f"line {number} is damaged: {in_one_line(error)}"
            self._refuse(reason)
        if isinstance(line, Start):
            if line.format != FORMAT:
                msg = f"{self._path} has format {line.format}, and this release reads {FORMAT}; replay it with {line.package}."
                raise VersionError(msg)
            fault = next(_faults(line), None)
            if fault is not None:
                self._refuse(f"line {number} {fault}")
        return line

    def _refuse(self, reason: str) -> NoReturn:
        msg = f"{self._path} cannot be replayed: {reason}."
        raise RecordError(msg) from None


def _turn(line: Line) -> tuple[int, int]:
    """Return when it is a line's turn: of the same instant, a start comes before its marks, and these before the readings."""
    return line.ns, 0 if isinstance(line, Start) else 1 if isinstance(line, Mark) else 2


def _faults(start: Start) -> Iterator[str]:
    """Yield what is wrong with a start, as the end of a sentence."""
    try:
        began = datetime.fromisoformat(start.started_at)
    except ValueError:
        began = None
    if began is None or began.tzinfo is None or not _FIRST_YEAR < began.year < _LAST_YEAR:
        yield f"has the date {start.started_at!r}"
    names = [device.id for device in start.devices]
    yield from (f"has the device {name} twice" for name in names if names.count(name) > 1)
    for device in start.devices:
        for name, least in _LEAST.items():
            value = getattr(device, name)
            if value is not None and not least < value < inf:
                yield f"has a device {device.id} whose {name} is {value:g}"


_LEAST: Final = {
    "relative_uncertainty": -1e-9,
    "wrap_joules": 0.0,
    "update_period_s": -1e-9,
    "min_interval_s": -1e-9,
    "max_watts": 0.0,
    "latency_s": -1e-9,
    "power_window_s": -1e-9,
}
"""Numbers of a device, and what each must be above."""
