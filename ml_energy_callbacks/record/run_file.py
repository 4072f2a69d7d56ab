"""The file of a run's record, written atomically and by one run only; a URL is written in the background."""

import contextlib
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.deadline import LateError, in_background, within
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.record.load import encode_record, run_id
from ml_energy_callbacks.record.schema import FILE_NAME, RunRecord
from ml_energy_callbacks.record.storage import File, LocalFile, Place, below, in_one_line, open_file

if TYPE_CHECKING:
    from concurrent.futures import Future

_ANSWER_S = 15.0
"""Longest wait for a URL: one write may take several requests, and another one for the credentials."""

_LAST_ANSWER_S = 5.0
"""Longest wait for the last write at the end of a run."""

_CANNOT = (OSError, TypeError, ValueError)
"""Errors of writing: those of the file system, and those of a text that cannot be encoded in UTF-8."""


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

    A local file is written immediately. A URL is written by a background thread, always with the latest record; while that
    fails or does not answer, the record is saved in a local directory, whose path is in a warning.

    Args:
        folder: Directory of the file.
        build: Returns the present record; called in any thread.
        warn: Warns the user, once per text.
        name: Name of the file.
        spare: Local directory for a record that cannot be written to a URL; the user's cache directory if it is None or fails.
        answer_s: Time limit for a URL to answer, in s.
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
        # Used only for a URL.
        self._spares = [] if isinstance(folder, Path) else [*([spare] if spare is not None else []), *_caches()]
        self._spare: LocalFile | None = None
        self._away = False
        self._told: set[Path | None] = set()
        self._turn = threading.RLock()
        self._due = False
        self._writing: Future[None] | None = None
        self._begun_ns = 0

    @property
    def path(self) -> Place:
        """Path or URL of the record; while the URL cannot be written, the path of the local file."""
        return self._spare.place if self._away and self._spare is not None else self._place

    # ---------------------------------------------------------------------------------------------------- ownership

    def claim(self, own_ids: Collection[str]) -> None:
        """Claim the place, save another run's record that is found there, and write the first record.

        Args:
            own_ids: Ids of the runs whose record this one continues: those are overwritten.

        Raises:
            ConfigurationError: It cannot be written, or does not answer; or a package is missing.
        """
        work = partial(self._claim, own_ids)
        try:
            if isinstance(self._place, Path):
                work()
            else:
                within(self._answer_s, in_background(work))
        except LateError:
            reason = f"it did not answer within {self._answer_s:g} s"
        except OSError as error:
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
                file.beside(_kept_name(self._name, run_id(data))).write(data)
            older = None if self._spot.owner is None else self._spot.owner()
            if older is not None:
                older.give_way(self._ids)
            file.write(encode_record(record))
            self._file, self._id = file, record.run.id
            self._spot.owner = weakref.ref(self)

    def give_way(self, ids: Collection[str]) -> None:
        """Release the place to a newer run.

        Args:
            ids: Ids of the runs that the newer record includes; if this run is among them, its record is no longer written.
        """
        self._file = None if self._file is None or self._id in ids else self._go_beside(self._file)

    def _go_beside(self, file: File) -> File:
        file = file.beside(_kept_name(self._name, self._id))
        self._place, self._spot = file.place, _Spot()
        return file

    def _put(self) -> None:
        """Write the record as of now, unless it belongs to a newer run."""
        with self._spot.lock:
            file = self._file
            if file is None:
                return
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
        self._come_back()

    def _remove(self) -> None:
        with self._spot.lock:
            file, self._file = self._file, None
            data = None if file is None else _read(file)
            if file is not None and data is not None and run_id(data) in self._ids:
                file.remove()
                self._file = None  # a write in progress must not create it again

    # ---------------------------------------------------------------------------------------------------- writing

    def write(self) -> None:
        """Write the present record; a failure is a warning and does not stop the run."""
        if isinstance(self._place, Path):
            self._try()
            return
        with self._turn:
            self._due = True
            if self._writing is None or self._writing.done():
                self._begun_ns = monotonic_clock()
                self._writing = in_background(self._write_all)
        if self._away or monotonic_clock() - self._begun_ns > self._answer_s * NS_PER_S:
            self._keep_here("it does not answer")

    def finish(self, began_ns: int | None = None) -> bool:
        """Write the last record, wait for some seconds at most, and return whether it was written to the place.

        Args:
            began_ns: When the wait began, possibly for another file of the run, monotonic clock in ns; None for now.
        """
        waited = 0.0 if began_ns is None else (monotonic_clock() - began_ns) / NS_PER_S
        if isinstance(self._place, Path):
            return self._try()
        self.write()
        writing = self._writing
        if writing is None:
            return not self._away
        try:
            within(max(0.0, min(_LAST_ANSWER_S, self._answer_s) - waited), writing)
        except LateError:
            self._keep_here("it does not answer")
        except RuntimeError as error:  # the interpreter is shutting down: no thread can be started
            self._keep_here(in_one_line(error))
        return not self._away

    def _write_all(self) -> None:
        """Write until there is nothing newer; called in a background thread."""
        while self._take():
            if self._try():
                self._come_back()

    def _take(self) -> bool:
        """Return whether there is something newer to write."""
        with self._turn:
            due, self._due = self._due, False
            self._begun_ns = monotonic_clock()
            if not due:
                self._writing = None
            return due

    def _try(self) -> bool:
        """Write the record, and return whether that succeeded."""
        try:
            self._put()
        except _CANNOT as error:
            self._keep_here(in_one_line(error))
            return False
        return True

    # ---------------------------------------------------------------------------------------------------- local copy of a URL

    def _keep_here(self, reason: str) -> None:
        """Write the record into a local directory, and warn with its path."""
        with self._turn:
            name = _kept_name(self._name, self._id)
            files = [LocalFile(folder / name) for folder in self._spares] if self._spare is None else [self._spare]
            file = next((file for file in files if self._keep_in(file)), None)
            self._away = file is not None
            self._spare = file or self._spare
            place = None if file is None else file.place
            if place in self._told:
                return
            self._told.add(place)
            where = "the record is in memory" if place is None else f"until it can be, the record is kept in {place}"
            self._warn(f"The run file {self._place} could not be written ({reason}); {where}.")
            if file is not None:
                self._keep_in(file)  # again, so that the record includes the warning

    def _keep_in(self, file: LocalFile) -> bool:
        try:
            file.make_folder()
            file.write(encode_record(self._build()))
        except _CANNOT:
            return False
        return True

    def _come_back(self) -> None:
        """Remove the local copy, which is no longer needed."""
        with self._turn:
            if self._away and self._spare is not None:
                self._away = False
                with contextlib.suppress(OSError):
                    self._spare.remove()


def _read(file: File) -> bytes | None:
    """Return the content of a file, or None if it does not exist."""
    try:
        return file.read()
    except FileNotFoundError:
        return None


def _kept_name(name: str, run: str | None) -> str:
    """Return the name under which a run's record is saved while another run uses the file of this name."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{'broken' if run is None else run[:8]}{dot}{suffix}"


def _caches() -> list[Path]:
    """Return local directories that outlive a run, the better one first."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - raises nothing without a home
    return [Path(folder, "ml-energy-callbacks") for folder in (cache, tempfile.gettempdir())]
