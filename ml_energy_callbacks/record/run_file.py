"""The file of a run's record, written as a whole and by one run alone; a URL is written in the background."""

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
"""A URL that has not answered by then does not: a store may be asked several times, and for its credentials first."""

_LAST_ANSWER_S = 5.0
"""The end of a run waits for its last writing for so long."""

_CANNOT = (OSError, TypeError, ValueError)
"""What writing raises: the file system, or a text that has no UTF-8."""


class _Spot:
    """A place as this process sees it.

    Attributes:
        lock: Held while the record there is looked at and replaced. It can be entered again, as by a signal's handler.
        owner: The run file that writes there.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.owner: weakref.ref[RunFile] | None = None


_SPOTS: dict[tuple[int, Place], _Spot] = {}
"""By place, and by process: a fork has none of the threads that may hold a lock just then."""


class RunFile:
    """The file of one run's record.

    The newest run has the place. What is there of another run is kept as ``energy-<id>.json`` beside it, and that run goes on
    in there: one of this process at once, one of another process as soon as it finds that the place is not its own any more.

    A local file is written at once. A URL is written by a thread of its own, and the latest record wins; while that fails, or
    does not answer, the record is kept in a local directory, which a warning names.

    Args:
        folder: Where the file is to be.
        build: Returns the record as of now; called in any thread.
        warn: Tells the user something, once.
        name: Name of the file.
        spare: The local directory for what a URL does not take; the user's cache where there is none.
        answer_s: How long a URL has to answer, in s.
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
        """Touch nothing yet."""
        self._place = below(folder, name)
        self._name = name
        self._build = build
        self._warn = warn
        self._answer_s = answer_s
        self._spot = _Spot()
        self._file: File | None = None
        self._id: str | None = None
        self._ids: set[str] = set()
        # Of a URL alone.
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
        """Where the record is: a path or a URL; while the URL cannot be written, the path of the local file."""
        return self._spare.place if self._away and self._spare is not None else self._place

    # ---------------------------------------------------------------------------------------------------- whose it is

    def claim(self, own_ids: Collection[str]) -> None:
        """Take the place, keep what is there of another run, and write the first record.

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
        """Leave the place to a newer run.

        Args:
            ids: Ids of the runs whose record that one tells: where this one's is among them, it is not told any more.
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
        """Remove the file where it is this run's still, and write no more; what cannot be removed stays."""
        with contextlib.suppress(Exception):  # whatever a store raises
            within(self._answer_s, in_background(self._remove))
        self._come_back()

    def _remove(self) -> None:
        with self._spot.lock:
            file, self._file = self._file, None
            data = None if file is None else _read(file)
            if file is not None and data is not None and run_id(data) in self._ids:
                file.remove()
                self._file = None  # a writing that is on its way does not bring it back

    # ---------------------------------------------------------------------------------------------------- when it is written

    def write(self) -> None:
        """Write the record as of now; a failure is a warning and does not stop the run."""
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
        """Write the last record, wait for that for some seconds at most, and return whether the place has it.

        Args:
            began_ns: When the waiting began, as for another file of the run, monotonic clock in ns; None for now.
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
        except RuntimeError as error:  # the interpreter ends: no thread can start
            self._keep_here(in_one_line(error))
        return not self._away

    def _write_all(self) -> None:
        """Write until there is nothing newer; in a thread of its own."""
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
        """Return whether the record could be written."""
        try:
            self._put()
        except _CANNOT as error:
            self._keep_here(in_one_line(error))
            return False
        return True

    # ---------------------------------------------------------------------------------------------------- while it cannot be

    def _keep_here(self, reason: str) -> None:
        """Keep the record in a local directory, and warn which."""
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
                self._keep_in(file)  # once more, with the warning

    def _keep_in(self, file: LocalFile) -> bool:
        try:
            file.make_folder()
            file.write(encode_record(self._build()))
        except _CANNOT:
            return False
        return True

    def _come_back(self) -> None:
        """Take away what was kept in a local directory: it is not needed any more."""
        with self._turn:
            if self._away and self._spare is not None:
                self._away = False
                with contextlib.suppress(OSError):
                    self._spare.remove()


def _read(file: File) -> bytes | None:
    """Return what is in a file, or None where there is none."""
    try:
        return file.read()
    except FileNotFoundError:
        return None


def _kept_name(name: str, run: str | None) -> str:
    """Return the name of a file that another run's file of this name leaves alone."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{'broken' if run is None else run[:8]}{dot}{suffix}"


def _caches() -> list[Path]:
    """Return local directories that outlive a run, the better one first."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - raises nothing without a home
    return [Path(folder, "ml-energy-callbacks") for folder in (cache, tempfile.gettempdir())]
