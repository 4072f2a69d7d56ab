"""Writes a recording in the background: the marks and readings of a run, from which `ml-energy replay` computes it again."""

import dataclasses
import errno
import fcntl
import os
import re
import stat
import threading
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from ml_energy_callbacks.attribution.timeline import Event, event_time
from ml_energy_callbacks.deadline.calls import LateError, in_background, within
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import Part, Phase
from ml_energy_callbacks.readings import Device, Reading
from ml_energy_callbacks.record.chain import MAGIC, Seal, make_chunk
from ml_energy_callbacks.record.descriptors import with_descriptors
from ml_energy_callbacks.record.recording import (
    Accept,
    Close,
    Epoch,
    Fit,
    Idle,
    Line,
    Mark,
    Start,
    Stop,
    Uncertainty,
    package_version,
)
from ml_energy_callbacks.record.schema import EpochRecord, RawReadings, Status
from ml_energy_callbacks.record.storage import in_one_line
from ml_energy_callbacks.record.utf8 import encode_json

if TYPE_CHECKING:
    from concurrent.futures import Future

_PAUSE_S = 0.5
"""What a process that is killed loses at most."""

_LAST_S = 2.0
"""Longest wait for the disk at the end of a run."""

_MOST_WAITING = 50_000
"""Events and readings that may wait for the disk; each takes up to 420 bytes, so that they are 21 MB at most. They are ten
minutes of a usual run."""

_CHUNK_WRITES = 20
"""So often is written to a compressed file at once: a process that is killed loses ten seconds, and shorter chunks are longer
together."""

_CHUNK_BYTES = 2**20
"""Lines of so many bytes are written at once, too."""

MOST_BYTES = 2**28
"""Longest compressed file."""

_BLOCK = 65_536
"""So much of the file is read at once to find where its last complete line ends."""

_BEGIN = re.compile(rb'\s*{\s*"line"\s*:\s*"')
"""The begin of a recording, or of what is left of one."""

Held = Sequence[tuple[Reading, tuple[int, float] | None]]
"""Readings of one device, each with a power (ns, W) that was read beside it, or None."""


class Recorder:
    """Write the marks and readings of one start of a meter to a file.

    What is added waits in memory, and a thread writes it about twice a second. If that fails, or the disk is too slow, the
    recording ends with one warning, and the run goes on. What the file holds stays as it is until :meth:`start`.

    Attributes:
        path: The file.
        seal: What a compressed file has so far.
        reason: Why the recording ended early; else None.

    Args:
        path: The file; one whose name ends with ``.gz`` is compressed, in chunks of about ten seconds.
        warn: Warns the user.
        place_of: Returns the stage, and the phase or the part of a batch, of a bucket of the timeline.
        before: The recorder of this meter's start before, if the same file is to be continued; else it is replaced.
        most_bytes: Longest compressed file, in bytes.

    Raises:
        ConfigurationError: The file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        warn: Callable[[str], None],
        place_of: Callable[[int], tuple[str | None, Phase | Part]],
        before: "Recorder | None" = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """Open the file."""
        self.path = path
        self._warn = warn
        self._place_of = place_of
        self._appends = before is not None
        self._compressed = path.suffix == ".gz"
        self._most_bytes = most_bytes
        self._lines = bytearray()  # those of the next chunk
        self._writes = self._fits = 0
        self.seal: Seal = Seal() if before is None else before.seal
        self.reason: str | None = None if before is None else before.reason
        self._names: dict[str, str] = {}  # ids of the devices in the file, by their own
        self._waiting: deque[Line | tuple[int, Event] | tuple[int, Mapping[str, Held]]] = deque()
        self._held = self._freed = 0  # readings that were added, and those that no longer wait
        self._size = 0
        self._ending = threading.Event()
        self._over = False
        self._writing: Future[None] | None = None
        try:
            self._made = not path.exists()
            self._file = with_descriptors(lambda: _open(path, before))
        except OSError as error:
            msg = f"The recording {path} cannot be written ({in_one_line(error)}); choose another file."
            raise ConfigurationError(msg) from None

    @property
    def hangs(self) -> bool:
        """Whether it has been finished, and its last write has not."""
        return self._ending.is_set() and self._writing is not None and not self._writing.done()

    def start(
        self,
        ns: int,
        *,
        outside_ns: int,
        run_id: str,
        started_at: str,
        framework: str,
        sample_interval: float,
        devices: Sequence[Device],
        incomplete: bool,
    ) -> None:
        """Begin to write, with the start of the run; see :class:`ml_energy_callbacks.record.recording.Start`."""
        described = [_without_what_is_private(device, number) for number, device in enumerate(devices, start=1)]
        self._names = {device.id: each.id for device, each in zip(devices, described, strict=True)}
        start = Start(
            package=package_version(),
            ns=ns,
            outside_ns=outside_ns,
            id=run_id,
            started_at=started_at,
            framework=framework,
            sample_interval=sample_interval,
            devices=described,
            incomplete=incomplete,
        )
        self._waiting.append(start)
        writing = self._writing = in_background(self._write_all)
        if writing.done() and (error := writing.exception()) is not None:  # no thread can be started
            self._give_up(in_one_line(error))

    def add_event(self, ns: int, event: Event) -> None:
        """Add an event of the timeline that counted at this instant."""
        self._add((ns, event))

    def add_readings(self, ns: int, held: Mapping[str, Held]) -> None:
        """Add the readings of devices, by their ids, that were added to the ledgers at this instant."""
        self._held += sum(map(len, held.values()))
        self._add((ns, held))

    def add_uncertainty(self, ns: int, device: Device) -> None:
        """Add the uncertainty of a device's energy, which has changed."""
        if device.id in self._names:
            self._add(Uncertainty(ns=ns, device=self._names[device.id], relative_uncertainty=device.relative_uncertainty))

    def add_fit(self, ns: int) -> int:
        """Add that the phases' power is fitted to all readings so far, and return the number of these fits."""
        self._fits += 1
        self._add(Fit(ns=ns, number=self._fits))
        return self._fits

    def accept_fit(self, ns: int, number: int, device: str) -> None:
        """Add that the fits of a device with this number, by its id, are used from then on."""
        if device in self._names:
            self._add(Accept(ns=ns, number=number, device=self._names[device]))

    def add_epoch(self, ns: int, epoch: EpochRecord) -> None:
        """Add an epoch that has ended, without its metrics, which are the user's, and its grams."""
        devices = {self._names[name]: joules for name, joules in epoch.devices.items() if name in self._names}
        self._add(Epoch(ns=ns, epoch=replace(epoch, devices=devices, metrics={}, co2e_grams=None)))

    def close_devices(self, ns: int, names: Sequence[str]) -> None:
        """Add the end of reading these devices, by their ids."""
        self._add(Close(ns=ns, devices=[self._names[name] for name in names if name in self._names]))

    def add_idle(self, ns: int, watts: Mapping[str, float]) -> None:
        """Add the measured idle power of devices in W, by their ids."""
        self._add(Idle(ns=ns, watts={self._names[name]: power for name, power in watts.items() if name in self._names}))

    def stop(self, ns: int, status: Status) -> None:
        """Add the end of the run, after which some readings follow."""
        self._add(Stop(ns=ns, status=status))

    def _add(self, item: Line | tuple[int, Event] | tuple[int, Mapping[str, Held]]) -> None:
        if self._over or self._writing is None:  # it was not started: the file begins with the start
            return
        self._waiting.append(item)
        if len(self._waiting) + self._held - self._freed > _MOST_WAITING:
            self._give_up("the disk is too slow")

    def kept(self, rank: int | None) -> RawReadings:
        """Return what the record of a process, of this rank or outside of a job, says of the file."""
        head, chunks, size = self.seal
        return RawReadings(file=self.path.name, head=head, chunks=chunks, size=size, rank=rank, reason=self.reason)

    def finish(self) -> None:
        """Write what waits, and close the file; a disk that does not answer is not waited for longer than two seconds.

        Where it was not started, as the start of the meter was refused, the file is removed again if it was not there before.
        """
        self._ending.set()
        if self._writing is None:
            if self._made:
                with suppress(OSError):
                    self.path.unlink()
            self._close()
            return
        with suppress(Exception):  # nothing that was unforeseen either stops a run
            try:
                within(_LAST_S, self._writing)
            except LateError:
                self._give_up("the disk does not answer")

    def _write_all(self) -> None:
        try:
            self._file.truncate(self._whole if self._appends else 0)
            self._size = os.fstat(self._file.fileno()).st_size
            over = False
            while not over and not self._over:
                over = self._ending.wait(_PAUSE_S)
                self._write(last=over)
            if not self._over and not self._unharmed:
                self._give_up("it was deleted, moved or cut during the run")
        except Exception as error:  # noqa: BLE001 - of the file system, or unforeseen; the run goes on
            with suppress(OSError):
                self._file.truncate(self._whole)
            self._give_up(in_one_line(error))
        finally:
            self._close()

    def _write(self, *, last: bool) -> None:
        """Write what waits: at each call no more than what waits at its start; of a compressed file, a chunk from time to time.

        Args:
            last: Whether no call follows.
        """
        lines, seal = b"".join([self._encode(self._waiting.popleft()) for _ in range(len(self._waiting))]), self.seal
        if self._compressed:
            self._writes += 1
            self._lines += lines
            if not (last or len(self._lines) >= _CHUNK_BYTES or self._writes % _CHUNK_WRITES == 0) or not self._lines:
                return
            lines, seal = make_chunk(seal, bytes(self._lines))
            self._lines.clear()
            if seal.size > self._most_bytes:
                self._give_up(f"it has reached {self._most_bytes / 1e6:.3g} MB")
                return
        data = memoryview(lines)
        self._size += len(data)
        while data:
            data = data[self._file.write(data) or 0 :]
        self.seal = seal

    @property
    def _whole(self) -> int:
        """Where the last complete line or chunk of the file ends."""
        return self.seal.size if self._compressed else _whole_lines(self._file)

    @property
    def _unharmed(self) -> bool:
        """Whether the file is still there, with all that was written."""
        mine = os.fstat(self._file.fileno())
        try:
            return mine.st_size == self._size and os.path.samestat(mine, self.path.stat())
        except FileNotFoundError:
            return False

    def _encode(self, item: Line | tuple[int, Event] | tuple[int, Mapping[str, Held]]) -> bytes:
        if isinstance(item, msgspec.Struct):
            return encode_json(item) + b"\n"
        ns, content = item
        return encode_json(self._mark(ns, content) if isinstance(content, tuple) else self._readings(ns, content)) + b"\n"

    def _mark(self, ns: int, event: Event) -> Mark:
        stage, phase = self._place_of(event[2])
        kind, _, _, batches, size, begin = event
        samples, tokens = size if isinstance(size, tuple) else (size, None)
        begun = None if begin is None else (event_time(begin), *self._place_of(begin[2]))
        return Mark(
            ns=ns,
            kind=kind,
            stage=stage,
            phase=phase,
            batches=batches,
            samples=_known(samples),
            tokens=_known(tokens),
            begun=begun,
        )

    def _readings(self, ns: int, held: Mapping[str, Held]) -> object:
        """Return a line of readings, without those of the job's shares of devices; tuples are written faster."""
        devices = {
            self._names[name]: [reading if power is None else (*reading, *power) for reading, power in readings]
            for name, readings in held.items()
            if name in self._names
        }
        self._freed += sum(map(len, held.values()))
        return {"line": "readings", "ns": ns, "devices": devices}

    def _give_up(self, reason: str) -> None:
        over, self._over = self._over, True
        self._waiting.clear()
        if not over:
            self.reason = f"The recording ends early: {reason}."
            self._warn(f"The recording {self.path} ends early: {reason}. Figures of the run are not affected.")

    def _close(self) -> None:
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked process may have inherited the descriptor
        with suppress(OSError):
            self._file.close()


def _known(number: int | None) -> int | None:
    """Return a number as it was counted; None where it is unknown, or not a number."""
    return number if number.__class__ is int and number >= 0 else None


def _open(path: Path, before: Recorder | None) -> FileIO:
    """Open a file that no other run writes, and that is empty or a recording; ``before`` is what wrote it last in this one.

    Raises:
        OSError: It cannot be opened, or is not a file that can be replaced, such as a pipe or a text.
    """
    if before is not None and before.hangs:
        raise OSError(errno.EBUSY, "the disk does not answer since the run before")
    if before is not None and before.seal.size > (path.stat().st_size if path.exists() else 0):
        raise OSError(errno.ENOENT, "it was deleted or cut since the start before")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666), "r+b")
    reason = None
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            reason = "it is not a regular file"
        elif (begin := os.pread(file.fileno(), _BLOCK, 0)) and not _BEGIN.match(_unpacked(begin)):
            reason = "it is not a recording, and would be lost"
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        reason = "another run writes it"
    except OSError:
        pass  # a file system without locks
    if reason is not None:
        file.close()
        raise OSError(reason)
    return file


def _unpacked(begin: bytes) -> bytes:
    """Return the first bytes of a file as they are, or unpacked where they are those of a compressed one."""
    if not begin.startswith(MAGIC):
        return begin
    try:
        return zlib.decompressobj(wbits=31).decompress(begin, _BLOCK)
    except zlib.error:
        return b""


def _whole_lines(file: FileIO) -> int:
    """Return where the last complete line of a file ends."""
    end = os.fstat(file.fileno()).st_size
    while end:
        begin = max(0, end - _BLOCK)
        newline = os.pread(file.fileno(), end - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


def _without_what_is_private(device: Device, number: int) -> Device:
    """Return a device as it is recorded: a meter of the whole machine may have the address of a plug in its id and name."""
    device = dataclasses.replace(device, note=None, missing=None, unread=None)
    if not device.whole_machine:
        return device
    return dataclasses.replace(
        device, id=f"{device.backend}:machine-{number}", name=f"Meter of the whole machine ({device.backend})"
    )
