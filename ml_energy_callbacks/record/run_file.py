"""The file of a run's record, written in the background, as a whole and by one run alone."""

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.deadline.calls import LateError, ThreadError, in_background, within
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.record.descriptors import with_descriptors
from ml_energy_callbacks.record.load import encode_record, run_id
from ml_energy_callbacks.record.schema import FILE_NAME, RunRecord
from ml_energy_callbacks.record.spare import Spare
from ml_energy_callbacks.record.storage import File, LocalFile, Place, below, in_one_line, open_file

if TYPE_CHECKING:
    from concurrent.futures import Future

_ANSWER_S = 15.0
"""Longest wait for a place: one write to a store may take several requests, and another one for the credentials."""

_LAST_ANSWER_S = 5.0
"""Longest wait for the last write at the end of a run."""

_SPARE_S = 2.0
"""Longest wait for the local copy."""

_STEP_S = 0.002
"""Pause between two looks at whether a record is written."""

_LATE = "it does not answer"


class _Spot:
    """A place as this process sees it.

    Attributes:
        lock: Held while the record there is read and replaced; reentrant, because a signal handler may do so as well.
        owner: The run file that writes there.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.owner: weakref.ref[RunFile] | None = None


_SPOTS: dict[tuple[int, Place], _Spot] = {}
"""By process and place: a forked process does not have the threads that may hold a lock at the time of the fork."""


class RunFile:
    """The file of one run's record.

    The newest run owns the place. Another run's record that is found there is saved as ``energy-<id>.json`` in the same
    directory, and that run continues in the saved file: a run of this process immediately, a run of another process as soon as
    it detects that it no longer owns the place.

    It is written by a thread of its own, and the latest record wins: a slow disk or store delays nobody. While that fails, or
    does not answer, the record is kept in another local directory, which a warning names.

    Args:
        folder: Directory of the file.
        build: Returns the present record; called in any thread.
        warn: Warns the user, once per text.
        name: Name of the file.
        spare: The local directory for what the place does not take; the user's cache where there is none.
        answer_s: How long the place has to answer, in s.
    """

    def __init__(
        self,
        folder: Place,
        build: Callable[[], RunRecord],
        warn: Callable[[str], None],
        *,
        name: str = FILE_NAME,
        spare: Path | None = None,
        answer_s: float = _ANSWER_S,
    ) -> None:
        """Store the arguments; no file is read or written yet."""
        self._place = below(folder, name)
        self._name = name
        self._build = build
        self._warn = warn
        self._answer_s = answer_s
        self._spot = _Spot()
        self._file: File | None = None
        self._id: str | None = None
        self._ids: set[str] = set()
        self._spare = Spare([spare] if spare is not None and spare != folder else [])
        self._away = False  # whether the place does not have the latest record
        self._told: set[Path | None] = set()
        self._turn = threading.RLock()  # held for an instant
        self._keeping_lock = threading.RLock()  # held while the local copy is written
        # Numbers of requests to write: the last one, that of the latest record, and of the records that were last tried to be
        # written, that the place has, and that the local directory has.
        self._requests = self._latest_request = self._tried = self._placed = self._kept = 0
        self._latest: RunRecord | None = None
        self._writing = False
        self._keeping: Future[None] | None = None
        self._begun_ns = 0

    @property
    def path(self) -> Place:
        """Where the record is: a path or a URL; while that cannot be written, the path of the local copy."""
        return (self._spare.place if self._away else None) or self._place

    @property
    def place(self) -> Place:
        """Where the record belongs, whether that can be written or not."""
        return self._place

    # ---------------------------------------------------------------------------------------------------- whose it is

    def claim(self, own_ids: Collection[str]) -> None:
        """Claim the place, save another run's record that is found there, and write the first record.

        Args:
            own_ids: Ids of the runs whose record this one continues: those are overwritten.

        Raises:
            ConfigurationError: It cannot be written, or does not answer; or a package is missing.
        """
        work = partial(with_descriptors, partial(self._claim, own_ids))
        try:
            if isinstance(self._place, Path):
                work()
            else:
                within(self._answer_s, in_background(work))
        except ConfigurationError:
            raise
        except LateError:
            reason = f"it did not answer within {self._answer_s:g} s"
        except Exception as error:  # noqa: BLE001 - the file system, or anything unforeseen
            reason = in_one_line(error)
        else:
            return
        msg = f"The run file {self._place} cannot be written ({reason}); choose another output_dir."
        raise ConfigurationError(msg)

    def _claim(self, own_ids: Collection[str]) -> None:
        file = open_file(self._place)
        file.make_folder()
        key = Path(os.path.realpath(file.place)) if isinstance(file, LocalFile) else file.place
        self._spot = _SPOTS.setdefault((os.getpid(), key), _Spot())
        with self._spot.lock, file.alone():
            record = self._build()
            self._ids.update(own_ids, [record.run.id])
            data = _read(file)
            if data is not None and run_id(data) not in self._ids:
                file.beside(kept_name(self._name, run_id(data))).write(data)
            older = None if self._spot.owner is None else self._spot.owner()
            if older is not None:
                older.give_way(self._ids)
            self._file, self._id = file, record.run.id  # before: whatever interrupts this, the last record replaces it
            file.write(encode_record(record))
            self._spot.owner = weakref.ref(self)

    def give_way(self, ids: Collection[str]) -> None:
        """Release the place to a newer run.

        Args:
            ids: Ids of the runs that the newer record includes; if this run is among them, its record is no longer written.
        """
        self._file = None if self._file is None or self._id in ids else self._go_beside(self._file)

    def _go_beside(self, file: File) -> File:
        file = file.beside(kept_name(self._name, self._id))
        self._place, self._spot = file.place, _Spot()
        return file

    def _put(self, record: RunRecord) -> None:
        """Write the record, unless the place belongs to a newer run."""
        with self._spot.lock:
            file = self._file
            if file is None:
                return
            file.make_folder()  # again, where somebody has removed it
            with file.alone():
                data = _read(file)
                if data is not None and run_id(data) not in self._ids:
                    taken = file.place
                    file = self._file = self._go_beside(file)
                    self._warn(
                        f"Another run writes its record to {taken}, too; the record of this run continues in {file.place}."
                    )
                    record = self._build()
                self._id = record.run.id
                self._ids.add(self._id)
                file.write(encode_record(record))

    def remove(self) -> None:
        """Remove the file if it still belongs to this run, and stop writing; a file that cannot be removed remains."""
        with contextlib.suppress(Exception):  # a store may raise anything
            within(self._answer_s, in_background(self._remove))
        self._placed = self._requests
        self._come_back()

    def _remove(self) -> None:
        with self._spot.lock:
            file, self._file = self._file, None
            data = None if file is None else _read(file)
            if file is not None and data is not None and run_id(data) in self._ids:
                file.remove()
                self._file = None  # a write in progress must not create it again

    # ---------------------------------------------------------------------------------------------------- writing

    def write(self) -> int:
        """Write the record as of now in the background, and return the number of this request.

        A failure is a warning and does not stop the run.
        """
        with self._turn:
            self._requests += 1
            request = self._requests
        record = self._build()  # in this thread, which may hold the locks that this takes
        with self._turn:
            if request > self._latest_request:  # another thread may have built a later record meanwhile
                self._latest, self._latest_request = record, request
            idle = not self._writing
            if idle:
                self._begun_ns = monotonic_clock()
        error = _not_started(in_background(self._write_all)) if idle else None
        if error is not None:
            if isinstance(self._place, Path):
                self._write_all()
            else:
                self._keep(in_one_line(error))
                with self._turn:
                    self._tried = max(self._tried, request)
        elif self._away or monotonic_clock() - self._begun_ns > self._answer_s * NS_PER_S:
            self._keep_in_background()
        return request

    def finish(self, began_ns: int | None = None) -> bool:
        """Write the last record, wait for some seconds at most, and return whether it was written to the place.

        Args:
            began_ns: When the wait began, possibly for another file of the run, monotonic clock in ns; None for now.
        """
        began_ns = monotonic_clock() if began_ns is None else began_ns
        request = self.write()
        end = max(monotonic_clock(), began_ns + round(min(_LAST_ANSWER_S, self._answer_s) * NS_PER_S))
        # Polled: Ctrl-C within a threading.Condition, which is Python code, may leave its lock held for ever. In this order, as
        # who writes sets the second before the first.
        while self._tried < self._latest_request or self._writing:
            if monotonic_clock() >= end:
                self._keep_in_background()
                break
            time.sleep(_STEP_S)
        return self._placed >= request

    def _write_all(self) -> None:
        """Write until there is nothing newer, unless another thread does so already.

        The threads find out among themselves which one it is: Ctrl-C may interrupt the one that starts them at any instant.
        """
        mine = False
        try:
            with self._turn:
                if self._writing:
                    return
                self._writing = mine = True
            while (taken := self._take()) is not None:
                request, record = taken
                try:
                    with_descriptors(partial(self._put, record))
                except Exception as error:  # noqa: BLE001 - of a file system, or unforeseen; training goes on
                    self._keep(in_one_line(error))
                else:
                    self._placed = max(self._placed, request)
                    self._come_back()
        except BaseException:  # Ctrl-C, or an error of the local copy: another thread may write from here on
            if mine:
                self._writing = False
            raise

    def _take(self) -> tuple[int, RunRecord] | None:
        """Return the latest request and its record, if it is newer; else let another thread write what comes next."""
        with self._turn:
            self._begun_ns = monotonic_clock()
            if self._latest is None or self._tried >= self._latest_request:
                self._writing = False
                return None
            self._tried = self._latest_request
            return self._tried, self._latest

    # ---------------------------------------------------------------------------------------------------- local copy

    def _keep_in_background(self) -> None:
        """Keep the latest record in a local directory, too, as the place does not answer; that directory may not either."""
        if self._keeping is None or self._keeping.done():
            self._keeping = in_background(partial(self._keep, _LATE))
        with contextlib.suppress(LateError, RuntimeError):
            if _not_started(self._keeping) is None:
                within(_SPARE_S, self._keeping)
            else:
                self._keep(_LATE)

    def _keep(self, reason: str) -> None:
        """Keep the latest record in a local directory, and warn which."""
        with self._keeping_lock:
            with self._turn:
                record, request = self._latest, self._latest_request
            if record is None or max(self._placed, self._kept) >= request:
                return
            self._kept = request
            name = kept_name(self._name, self._id)
            kept = self._spare.write(name, encode_record(record))
            self._away = True
            place = self._spare.place if kept else None
            if place in self._told:
                return
            self._told.add(place)
            where = "the record is in memory" if place is None else f"until it can be, the record is kept in {place}"
            self._warn(f"The run file {self._place} could not be written ({reason}); {where}.")
            if kept:
                self._spare.write(name, encode_record(self._build()))  # once more, with the warning

    def _come_back(self) -> None:
        """Take away what was kept in a local directory: it is not needed any more."""
        with self._keeping_lock:
            if self._kept > self._placed:
                return  # a later record is there alone
            self._away = False
            self._spare.remove()


def _not_started(work: "Future[None]") -> ThreadError | None:
    """Return the error of work for which no thread could be started, as at the interpreter's end."""
    error = work.exception() if work.done() else None
    return error if isinstance(error, ThreadError) else None


def _read(file: File) -> bytes | None:
    """Return the content of a file, or None if it does not exist."""
    try:
        return file.read()
    except FileNotFoundError:
        return None


def kept_name(name: str, run: str | None) -> str:
    """Return the name of a file that another run's file of this name leaves alone."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{'broken' if run is None else run[:8]}{dot}{suffix}"
