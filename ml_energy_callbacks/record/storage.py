"""Local files, and remote ones through the optional extra fsspec; each is written completely or not at all."""

import errno
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_IMODE
from typing import Any, BinaryIO

from ml_energy_callbacks.exceptions import ConfigurationError

Place = Path | str
"""Location of a file or a directory: a local path, or a URL as a ``str``."""

_LOCAL = ("file://", "local://")

_OBJECT_STORES = {"abfs", "abfss", "az", "gcs", "gs", "memory", "oci", "oss", "s3", "s3a"}
"""Protocols whose objects become visible only once they are complete. They have no directories, and moving means copying."""

_SECRETIVE = frozenset("@?#")
"""Characters of URLs that may have a password or a token."""

_TRIES, _TRY_S = 100, 0.01
"""Number of attempts to acquire a lock, and the time between them in s."""


def as_place(named: str | os.PathLike[str]) -> Place:
    """Return the place that somebody names; a URL of a local file is a local path, and ``~`` the user's home."""
    text = os.fspath(named)
    local = next((prefix for prefix in _LOCAL if text.startswith(prefix)), None)
    if local is not None:
        return Path(text.removeprefix(local))
    return text if "://" in text else local_path(text)


def local_path(named: str | os.PathLike[str]) -> Path:
    """Return the local path that somebody names; ``~`` is the user's home."""
    return Path(os.path.expanduser(named))  # noqa: PTH111 - the method of Path raises where there is no home


def absolute(place: Place) -> Place:
    """Return a place that stays the same when the working directory changes."""
    with suppress(FileNotFoundError):  # the working directory has been removed
        return Path(os.path.abspath(place)) if isinstance(place, Path) else place  # noqa: PTH100 - resolve() follows links
    return place


def public_text(place: Place | None) -> str | None:
    """Return a place as a text for a record; None for a URL that may have a password or a token."""
    return None if place is None or (isinstance(place, str) and not _SECRETIVE.isdisjoint(place)) else str(place)


def below(folder: Place, name: str) -> Place:
    """Return the place of this name in a directory."""
    if isinstance(folder, Path):
        return folder / name
    return f"{folder}{name}" if folder.endswith("/") else f"{folder}/{name}"


def folder_of(place: Place) -> Place:
    """Return the directory that a file is in."""
    return place.parent if isinstance(place, Path) else place.rpartition("/")[0]


def in_one_line(error: BaseException) -> str:
    """Return the message of a file system's error in one line, without a full stop."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return " ".join(text.split()).removesuffix(".")


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Raises:
        ConfigurationError: A package is missing, or there is no such file system.
    """
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - an optional extra
    except ImportError:
        msg = f"{url} requires fsspec: pip install 'ml-energy-callbacks[remote]', or use a local directory."
        raise ConfigurationError(msg) from None
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or error.name
        fix = in_one_line(error) if missing is None else f"pip install {missing.partition('.')[0]}"
        msg = f"{url} requires a package that is not installed: {fix}."
        raise ConfigurationError(msg) from None
    except Exception as error:  # noqa: BLE001 - each file system has errors of its own
        msg = f"{url} cannot be reached: {in_one_line(error)}."
        raise ConfigurationError(msg) from None
    return system, path


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine.

    Attributes:
        place: Its path.
        like: A file whose access rights this one gets where it is new; what is there keeps its own.
    """

    place: Path
    like: Path | None = None

    def read(self) -> bytes:
        """Return its content.

        Raises:
            OSError: It does not exist, or cannot be read, such as a pipe, which may have no end.
        """
        with open(self.place, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file", str(self.place))
            return file.read()

    def write(self, data: bytes, *, sync: bool = True) -> None:
        """Write it so that a crash at any instant leaves the previous content or this one whole.

        Args:
            data: All of it.
            sync: Whether to wait until it is on the disk: without that, the crash may be one of this process alone.

        Raises:
            OSError: It cannot be written.
        """
        new = self.place.with_name(_partial(self.place.name))
        try:
            with self._create(new) as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            new.replace(self.place)
        except OSError:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Remove it.

        Raises:
            OSError: It does not exist, or cannot be removed.
        """
        self.place.unlink()

    def make_folder(self) -> None:
        """Create the directory of the file.

        Raises:
            OSError: The directory cannot be created.
        """
        self.place.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the file's directory while the body runs, against other processes of this machine that use the same lock.

        The body runs without the lock if another process holds it for more than a second, or if the directory's file system
        does not support such locks. The directory itself is locked, so that no lock file remains in it.
        """
        # Imported here because it takes 30 ms and is needed only to write a run file, first at the start of a run.
        from filelock import lock_descriptor, unlock_descriptor  # noqa: PLC0415

        handle = os.open(self.place.parent, os.O_RDONLY)
        try:
            with suppress(OSError):
                for _ in range(_TRIES):
                    if lock_descriptor(handle, blocking=False):
                        break
                    time.sleep(_TRY_S)
            yield
        finally:
            with suppress(OSError):
                unlock_descriptor(handle)  # a forked process may have inherited the handle
            os.close(handle)

    def beside(self, name: str) -> "LocalFile":
        """Return the file of this name in the same directory."""
        return LocalFile(self.place.with_name(name), self.place)

    def _create(self, path: Path) -> BinaryIO:
        """Create a file with the access rights of the one that it is to replace; at no time may it be read by more."""
        modes = []
        for known in (self.place, self.like):
            with suppress(OSError):
                if known is not None:
                    modes.append(S_IMODE(known.stat().st_mode))
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, modes[0] if modes else 0o666)
        if modes:
            with suppress(OSError):  # a file system without access rights
                os.fchmod(handle, modes[0])  # os.open follows the umask
        return os.fdopen(handle, "wb")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that is accessed through fsspec; every error of the file system is raised as an ``OSError``.

    Attributes:
        place: Its URL.
        system: The file system.
        path: Its path in the file system.
    """

    place: str
    system: Any = field(repr=False)
    path: str

    def read(self) -> bytes:
        """Return its content.

        Raises:
            OSError: It does not exist, or cannot be read.
        """
        with _os_errors():
            data: bytes = self.system.cat_file(self.path)
            return data

    def write(self, data: bytes) -> None:
        """Write it so that others see either the previous content or the new content, complete.

        Raises:
            OSError: It cannot be written.
        """
        with _os_errors():
            if self._is_object:
                self.system.pipe_file(self.path, data)
                return
            partial = _sibling(self.path, _partial(self.path.rpartition("/")[2]))
            try:
                self.system.pipe_file(partial, data)
            except Exception:
                with suppress(Exception):
                    self.system.rm_file(partial)
                raise
            with suppress(OSError):
                self.system.mv(partial, self.path)
            if self.system.exists(partial):  # HDFS does not overwrite a file by a move, and WebHDFS does not report that
                self.system.rm_file(self.path)
                self.system.mv(partial, self.path)

    def remove(self) -> None:
        """Remove it.

        Raises:
            OSError: It does not exist, or cannot be removed.
        """
        with _os_errors():
            self.system.rm_file(self.path)

    def make_folder(self) -> None:
        """Create the directory of the file, if the file system has directories.

        Raises:
            OSError: The directory cannot be created.
        """
        if not self._is_object:
            with _os_errors():
                self.system.makedirs(self.path.rpartition("/")[0], exist_ok=True)

    def alone(self) -> AbstractContextManager[None]:
        """Do nothing: there is no lock that all file systems support."""
        return nullcontext()

    def beside(self, name: str) -> "RemoteFile":
        """Return the file of this name in the same directory."""
        return RemoteFile(_sibling(self.place, name), self.system, _sibling(self.path, name))

    @property
    def _is_object(self) -> bool:
        protocols = self.system.protocol
        return not _OBJECT_STORES.isdisjoint([protocols] if isinstance(protocols, str) else protocols)


File = LocalFile | RemoteFile


def open_file(place: Place) -> File:
    """Return the file at a place, whether it exists or not.

    Raises:
        ConfigurationError: A package is missing, or there is no such file system.
    """
    return LocalFile(place) if isinstance(place, Path) else RemoteFile(place, *file_system(place))


def open_file_or_within(place: Place, name: str) -> File:
    """Return the file at a place or, if the place is a directory, the file of this name in it.

    Raises:
        ConfigurationError: A package is missing, or there is no such file system.
        OSError: The file system does not report whether the place is a directory.
    """
    file = open_file(place)
    with _os_errors():
        is_folder = file.place.is_dir() if isinstance(file, LocalFile) else file.system.isdir(file.path)
    return open_file(below(place, name)) if is_folder else file


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for somebody who writes into it, as one does at a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _partial(name: str) -> str:
    """Return a name that no other write uses, in this process, in another one or on another machine."""
    return f".{name}.{uuid.uuid4().hex}.partial"


def _sibling(path: str, name: str) -> str:
    folder, slash, _ = path.rpartition("/")
    return f"{folder}{slash}{name}"


@contextmanager
def _os_errors() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(in_one_line(error)) from error
