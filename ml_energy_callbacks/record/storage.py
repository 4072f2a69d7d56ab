"""Files that are local, or wherever fsspec, an optional extra, reaches; each is written whole or not at all."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_energy_callbacks.exceptions import ConfigurationError

Place = Path | str
"""Of a file or a directory: a local path; or a URL, which is a ``str``."""

_LOCAL = ("file://", "local://")

_OBJECT_STORES = {"abfs", "abfss", "az", "gcs", "gs", "memory", "oci", "oss", "s3", "s3a"}
"""Protocols of which an object appears once it is whole. They know no directories, and no move but a copy."""

_TRIES, _TRY_S = 100, 0.01
"""How often, and how many s apart, a lock is asked for."""


def as_place(named: str | os.PathLike[str]) -> Place:
    """Return the place that somebody names; a URL of a local file is a local path."""
    text = os.fspath(named)
    local = next((prefix for prefix in _LOCAL if text.startswith(prefix)), None)
    if local is not None:
        return Path(text.removeprefix(local))
    return text if "://" in text else Path(text)


def below(folder: Place, name: str) -> Place:
    """Return the place of this name in a directory."""
    if isinstance(folder, Path):
        return folder / name
    return f"{folder}{name}" if folder.endswith("/") else f"{folder}/{name}"


def folder_of(place: Place) -> Place:
    """Return the directory that a file is in."""
    return place.parent if isinstance(place, Path) else place.rpartition("/")[0]


def in_one_line(error: BaseException) -> str:
    """Return what an error of any file system says, without a full stop."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return " ".join(text.split()).removesuffix(".")


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in there.

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
    """

    place: Path

    def read(self) -> bytes:
        """Return all of it.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        return self.place.read_bytes()

    def write(self, data: bytes) -> None:
        """Write it so that a crash at any instant leaves the previous content or this one whole.

        Raises:
            OSError: It cannot be written.
        """
        partial = self.place.with_name(_partial(self.place.name))
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.place)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Remove it.

        Raises:
            OSError: It is not there, or stays there.
        """
        self.place.unlink()

    def make_folder(self) -> None:
        """Make the directory that it is to be in.

        Raises:
            OSError: That cannot be made.
        """
        self.place.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes of this machine that ask for the same from its directory for as long as the body lasts.

        One that does not come to its end is waited for for a second at most; nor is there any waiting where the directory's
        file system has no such locks. The directory itself is locked, so that no lock file is left in it.
        """
        # 20 ms, wanted only where a run file is written: for the first time at the start of a run.
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
                unlock_descriptor(handle)  # a fork may have got the handle, too
            os.close(handle)

    def beside(self, name: str) -> "LocalFile":
        """Return the file of this name in the same directory."""
        return LocalFile(self.place.with_name(name))


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that fsspec reaches; whatever the file system raises becomes an ``OSError``.

    Attributes:
        place: Its URL.
        system: The file system.
        path: Its path in there.
    """

    place: str
    system: Any = field(repr=False)
    path: str

    def read(self) -> bytes:
        """Return all of it.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        with _os_errors():
            data: bytes = self.system.cat_file(self.path)
            return data

    def write(self, data: bytes) -> None:
        """Write it so that others see the previous content or this one whole.

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
            if self.system.exists(partial):  # HDFS moves onto no file that is there, and WebHDFS does not even say so
                self.system.rm_file(self.path)
                self.system.mv(partial, self.path)

    def remove(self) -> None:
        """Remove it.

        Raises:
            OSError: It is not there, or stays there.
        """
        with _os_errors():
            self.system.rm_file(self.path)

    def make_folder(self) -> None:
        """Make the directory that it is to be in, where the file system knows any.

        Raises:
            OSError: That cannot be made.
        """
        if not self._is_object:
            with _os_errors():
                self.system.makedirs(self.path.rpartition("/")[0], exist_ok=True)

    def alone(self) -> AbstractContextManager[None]:
        """Do nothing: there are no locks that all file systems have."""
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
    """Return the file at a place, whether it is there or not.

    Raises:
        ConfigurationError: A package is missing, or there is no such file system.
    """
    return LocalFile(place) if isinstance(place, Path) else RemoteFile(place, *file_system(place))


def open_file_or_within(place: Place, name: str) -> File:
    """Return the file at a place; where a directory is there, the file of this name in it.

    Raises:
        ConfigurationError: A package is missing, or there is no such file system.
        OSError: The file system does not tell which of them it is.
    """
    file = open_file(place)
    with _os_errors():
        is_folder = file.place.is_dir() if isinstance(file, LocalFile) else file.system.isdir(file.path)
    return open_file(below(place, name)) if is_folder else file


def _partial(name: str) -> str:
    """Return a name that no other writing has, be it in this process, another one or another machine's."""
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
