"""The lines of a recording: the marks and readings of a run as JSON lines, from which its record is computed again.

The first line is a :class:`Start`. Times are those of the recorded run's monotonic clock, in ns.
"""

import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from heapq import merge
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, BinaryIO, Final, Literal, NoReturn

import msgspec

from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.exceptions import RecordError, VersionError
from ml_energy_callbacks.metrics import MOST_COUNT, Part, Phase, is_stage
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.record.chain import MAGIC, DamagedChunkError, IncompleteChunkError, read_chunks
from ml_energy_callbacks.record.schema import MOST, Amount, Count, EpochRecord, Status
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
        outside_ns: Since when no run was going on before; None if it is unknown.
        id: Identifier of the run, by which its record is found; None if it is unknown.
        started_at: Time of day then, ISO 8601 with offset.
        framework: As in the record.
        sample_interval: Mean time between two reads of a device, in s.
        devices: The devices that are read.
        incomplete: Whether the energy of a device that belongs to the run could not be read.
    """

    format: int = FORMAT
    package: str
    ns: Instant
    outside_ns: Instant | None = None
    id: str | None = None
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
        stage: Stage or sub-stage that runs from then on; None outside the run.
        phase: Phase of that stage, or part of its batches.
        batches: Batches that ended.
        samples: Their samples; None where that is unknown.
        tokens: Their tokens; None where that is unknown.
        begun: Begin of a batch that may overlap others, where it ends: when, and the stage and phase that ran meanwhile.
    """

    ns: Instant
    kind: Literal["switch", "batches", "begin", "end", "samples"] = "switch"
    stage: str | None = None
    phase: Phase | Part = "other"
    batches: Annotated[int, msgspec.Meta(ge=-MOST_COUNT, le=MOST_COUNT)] = 0
    samples: Count | None = None
    tokens: Count | None = None
    begun: tuple[Instant, str | None, Phase | Part] | None = None


class Polled(msgspec.Struct, array_like=True):
    """One reading of a device.

    Attributes:
        started_ns: Clock just before the read.
        ended_ns: Clock just after it.
        value: J or W, by the device's method; None where the read failed.
        power_ns: When the power beside a counter was read.
        watts: That power; None where it was not read.
    """

    started_ns: Instant
    ended_ns: Instant
    value: float | None
    power_ns: Instant = 0
    watts: Amount | None = None


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


class Fit(msgspec.Struct, kw_only=True, tag_field="line", tag="fit", omit_defaults=True):
    """Fits of the phases' power to all readings so far, by which later readings are divided.

    Attributes:
        ns: When they began.
        number: Their number, by which :class:`Accept` names them; None where they are used from this instant on.
    """

    ns: Instant
    number: int | None = None


class Accept(msgspec.Struct, kw_only=True, tag_field="line", tag="accept"):
    """The fits of a device with this number are used from then on: solving them takes time, in which it is read further."""

    ns: Instant
    number: int
    device: str


class Epoch(msgspec.Struct, kw_only=True, tag_field="line", tag="epoch"):
    """An epoch that ended, as it was known then, without its metrics and grams."""

    ns: Instant
    epoch: EpochRecord


class Close(msgspec.Struct, kw_only=True, tag_field="line", tag="close"):
    """The end of reading these devices, by their ids."""

    ns: Instant
    devices: list[str]


class Idle(msgspec.Struct, kw_only=True, tag_field="line", tag="idle"):
    """The idle power of devices in W, by their ids, as it was measured before the run."""

    ns: Instant
    watts: dict[str, Amount]


class Stop(msgspec.Struct, kw_only=True, tag_field="line", tag="stop"):
    """The end of the run; readings of the time after it follow."""

    ns: Instant
    status: Status


Line = Start | Mark | Readings | Uncertainty | Fit | Accept | Epoch | Close | Idle | Stop


class _Head(msgspec.Struct):
    """What a first line has in each format."""

    line: Literal["start"]
    format: int = FORMAT
    package: str = "unknown"


_HEAD: Final = msgspec.json.Decoder(_Head)
_LINE: Final = msgspec.json.Decoder(Line)
LONGEST_S: Final = 3.2e8
"""No run takes ten years."""

_LONGEST_LINE = 2**24
"""In bytes; a line of a hundred devices that could not be written for a minute has less."""

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_FIRST_YEAR, _LAST_YEAR = 1970, 3000
_NOT_FIRST = (
    "its first line is not the start of a run; give a file that EnergyMeter(recording='raw.jsonl') wrote, and show an "
    "energy.json with ml-energy report"
)
_BLOCK = 2**16
_BLANK = b"\0\r\n"
"""What a file may end with after a power failure."""


class Recording:
    """A file of such lines, which is read anew each time they are asked for.

    Attributes:
        first: Its first line.
        left_out: A sentence on its last part where that is damaged or not complete, as after the end of a process that was
            killed, or a power failure; None until all was read.

    Args:
        path: The file.

    Raises:
        RecordError: It cannot be read, or is no recording.
        VersionError: It is of another release, whose lines are others.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the first line."""
        self._path = local_path(path)
        self.left_out: str | None = None
        try:
            if not stat.S_ISREG(self._path.stat().st_mode):
                self._refuse("it is not a regular file")
        except OSError as error:
            self._refuse(in_one_line(error))
        _, first = next(self._read(), (0, None))
        if not isinstance(first, Start):
            self._refuse(_NOT_FIRST)
        self.first: Start = first

    def lines(self) -> Iterator[Line]:
        """Yield the lines in the order of their times; the file has each mark after it has counted, as late as readings have.

        Raises:
            RecordError: A line is damaged or contradicts those before it.
        """
        marks = ((number, line) for number, line in self._read() if isinstance(line, Mark))
        others = ((number, line) for number, line in self._read() if not isinstance(line, Mark))
        return merge(self._checked(marks), self._checked(others), key=_turn)

    def _checked(self, lines: Iterable[tuple[int, Line]]) -> Iterator[Line]:
        now = batches = samples = tokens = 0
        read: dict[str, int] = {}  # until when the devices of the last start were read
        for number, line in lines:
            if line.ns < now:
                self._refuse_line(number, f"the times of lines run backwards, from {now} to {line.ns} ns")
            now = line.ns
            if now - self.first.ns > LONGEST_S * NS_PER_S:
                self._refuse_line(number, f"{(now - self.first.ns) / NS_PER_S:g} s after the start, which no run takes")
            if isinstance(line, Start):
                read = {device.id: 0 for device in line.devices}
            elif isinstance(line, Readings):
                for name, readings in line.devices.items():
                    fault = _fault_of_readings(name, readings, read.get(name), now)
                    if fault is not None:
                        self._refuse_line(number, fault)
                    read[name] = readings[-1].ended_ns if readings else read[name]
            elif isinstance(line, Mark):
                batches, samples = batches + line.batches, samples + (line.samples or 0)
                tokens += line.tokens or 0
                if (line.kind != "samples" and line.batches < 0) or max(abs(batches), samples, tokens) > MOST_COUNT:
                    counts = f"{batches} batches and {samples} samples{f' of {tokens} tokens' if tokens else ''}"
                    self._refuse_line(number, f"{counts} so far, which no run has")
            yield line

    def _read(self) -> Iterator[tuple[int, Line]]:
        """Yield each line with its number."""
        try:
            with self._path.open("rb") as file:
                yield from self._read_lines(file)
        except OSError as error:
            self._refuse(in_one_line(error))

    def _read_lines(self, file: BinaryIO) -> Iterator[tuple[int, Line]]:
        for number, source in enumerate(self._sources(file), start=1):
            if number == 1:
                self._check_head(source)
            complete = number == 1 or source.endswith(b"\n")
            try:
                line: Line = _LINE.decode(source if complete else b"")
                fault = next(_faults(line), None)
            except _UNREADABLE as error:
                fault = in_one_line(error)
                if number > 1 and _is_rest_blank(file):
                    what = f"The recording is damaged from line {number} on ({fault}), which"
                    self.left_out = (
                        f"{what if complete else 'The last line of the recording is not complete and'} was left out."
                    )
                    return
            if fault is not None:
                self._refuse_line(number, fault)
            yield number, line

    def _sources(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield each line as the file has it; of a compressed one, those of its complete chunks."""
        compressed = file.read(len(MAGIC)) == MAGIC
        file.seek(0)
        if not compressed:
            while source := file.readline(_LONGEST_LINE):
                yield source
            return
        try:
            for _, lines in read_chunks(file):
                yield from io.BytesIO(lines)
        except IncompleteChunkError:
            self.left_out = "The last chunk of the recording is not complete and was left out."
        except DamagedChunkError as error:
            self._refuse(str(error))

    def _check_head(self, source: bytes) -> None:
        """Check that the first line is the start of a run, of the format of this release."""
        try:
            head = _HEAD.decode(source)
        except _UNREADABLE:
            self._refuse(_NOT_FIRST)
        if head.format != FORMAT:
            msg = (
                f"{self._path} has format {head.format}, and this release reads {FORMAT}; replay it with ml-energy-callbacks "
                f"{head.package}."
            )
            raise VersionError(msg)

    def _refuse_line(self, number: int, fault: str) -> NoReturn:
        advice = f"; to replay what comes before it, keep the first {number - 1} lines" if number > 1 else ""
        self._refuse(f"line {number} is damaged ({fault}){advice}")

    def _refuse(self, reason: str) -> NoReturn:
        msg = f"{self._path} cannot be replayed: {reason}."
        raise RecordError(msg) from None


def _turn(line: Line) -> tuple[int, int]:
    """Return when it is a line's turn: of the same instant, a start comes before its marks, and these before the readings."""
    return line.ns, 0 if isinstance(line, Start) else 1 if isinstance(line, Mark) else 2


def _is_rest_blank(file: BinaryIO) -> bool:
    """Return whether nothing follows in a file, or nothing but what it may end with after a power failure."""
    while block := file.read(_BLOCK):
        if block.strip(_BLANK):
            return False
    return True


def _fault_of_readings(name: str, readings: Sequence[Polled], until: int | None, now: int) -> str | None:
    """Return what is wrong with readings, up to now, of a device that was read until then (both in ns); None if nothing is."""
    if until is None:
        return f"readings of {name}, which is none of the devices of its start"
    for reading in readings:
        if not until <= reading.started_ns <= reading.ended_ns:
            return f"the times of {name}'s readings run backwards, from {until} to {reading.started_ns} ns"
        until = reading.ended_ns
    return f"a reading of {name} at {until} ns, after the time of the line" if until > now else None


def _faults(line: Line) -> Iterator[str]:
    """Yield what is wrong with a line by itself."""
    if isinstance(line, Start):
        yield from _faults_of_start(line)
    elif isinstance(line, Mark):
        stages = (line.stage, None if line.begun is None else line.begun[1])
        yield from (f"the stage {stage!r}" for stage in stages if stage is not None and not is_stage(stage))


def _faults_of_start(start: Start) -> Iterator[str]:
    try:
        began = datetime.fromisoformat(start.started_at)
    except ValueError:
        began = None
    if began is None or began.tzinfo is None or not _FIRST_YEAR < began.year < _LAST_YEAR:
        yield f"the date {start.started_at!r}"
    names = [device.id for device in start.devices]
    yield from (f"the device {name} twice" for name in names if names.count(name) > 1)
    for device in start.devices:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(device, name)
            if value is not None and not least <= value <= most:
                yield f"a device {device.id} whose {name} is {value:g}"


_TINY: Final = 1e-9

_BOUNDS: Final = {
    "relative_uncertainty": (0.0, MOST),
    "wrap_joules": (_TINY, MOST),
    "update_period_s": (0.0, LONGEST_S),
    "min_interval_s": (0.0, LONGEST_S),
    "max_watts": (_TINY, 1e10),
    "latency_s": (0.0, LONGEST_S),
    "power_window_s": (0.0, LONGEST_S),
}
"""Numbers of a device, and what each is between."""
