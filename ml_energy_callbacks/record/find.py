"""Where run records are: local paths and patterns, and whatever fsspec, an optional extra, can reach."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.record.load import decode_record
from ml_energy_callbacks.record.schema import FILE_NAME, RunRecord
from ml_energy_callbacks.record.storage import LocalFile, Place, file_system, in_one_line, local_path
from ml_energy_callbacks.record.utf8 import text_in_utf8

_KEPT_FILES = "energy-????????.json"
"""What an earlier run's record is renamed to by the next one in its directory."""


def is_record_name(name: str) -> bool:
    """Return whether a file of this name, without its directory, is a run record by its name."""
    return name == FILE_NAME or fnmatchcase(name, _KEPT_FILES)


def find_records(
    folder: Path, unlisted: Callable[[OSError], None], named: Callable[[str], bool] = is_record_name
) -> list[Path]:
    """Return the run records below a directory, in the order of their names.

    Args:
        folder: The directory.
        unlisted: Called with why one below it cannot be listed.
        named: Whether a file is one, by its name.
    """
    found = os.walk(folder, onerror=unlisted)
    return sorted(Path(parent, name) for parent, _, names in found for name in names if named(name))


THREADS = 16
"""They wait for a disk or a network most of the time."""


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file that should be a run record.

    Attributes:
        name: Its path or URL, as a text that can be shown.
        place: Its path or URL.
        read: Returns all of it; raises whatever its file system does.
    """

    name: str
    place: Place
    read: Callable[[], bytes]

    def load(self) -> RunRecord:
        """Return the record.

        Raises:
            RecordError: It cannot be read, or is no run record.
        """
        try:
            data = self.read()
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own
            msg = f"The run record {self.name} cannot be read: {in_one_line(error)}."
            raise RecordError(msg) from None
        return decode_record(data, self.name)


def is_run(place: str) -> bool:
    """Return whether a place is one local run: a file, or a directory with an ``energy.json`` of its own."""
    # Of os.path, as a method of Path raises where a directory on the way may not be entered, or a name is too long.
    return os.path.isfile(place) or os.path.isfile(Path(place, FILE_NAME))  # noqa: PTH113 - as said


def find_files(
    places: Sequence[str],
    unlisted: Callable[[str], None],
    named: Callable[[str], bool] = is_record_name,
    example: str = FILE_NAME,
) -> list[RecordFile]:
    """Return the files of run records, each once.

    Args:
        places: Files, directories above some, patterns such as ``runs/*``, or URLs of these such as ``s3://bucket/runs/*``.
        unlisted: Called with what cannot be looked into, such as another user's directory.
        named: Whether a file below a directory is one, by its name.
        example: Such a name.

    Raises:
        RecordError: There is none at one of the places.
        ConfigurationError: A URL needs a package that is missing, or cannot be listed.
    """
    files: dict[str, RecordFile] = {}
    for place in places:
        hidden: list[str] = []
        found = list(_remote(place, named) if "://" in place else _local(place, hidden.append, named))
        if not found:
            why = f" ({', '.join(hidden)} cannot be listed)" if hidden else ""
            msg = f"There is no run record at {place} or below it{why}: give an {example} or a directory that contains some."
            raise RecordError(msg)
        for folder in hidden:
            unlisted(folder)
        files.update({file.name: file for file in found})
    return list(files.values())


def _local(place: str, unlisted: Callable[[str], None], named: Callable[[str], bool]) -> Iterator[RecordFile]:
    place = str(local_path(place))
    paths = [place] if os.path.exists(place) else sorted(glob.glob(place, recursive=True))  # noqa: PTH110, PTH207 - as above
    for path in map(Path, paths):
        folder = os.path.isdir(path)  # noqa: PTH112 - as above
        found = find_records(path, lambda error: unlisted(str(error.filename)), named) if folder else [path]
        for file in found:
            yield RecordFile(text_in_utf8(str(file)), file, LocalFile(file).read)


def _remote(url: str, named: Callable[[str], bool]) -> Iterator[RecordFile]:
    system, path = file_system(url)
    try:
        found = _below(system, path, named)
    except FileNotFoundError:
        return
    except Exception as error:  # noqa: BLE001 - each file system has errors of its own
        msg = f"{url} cannot be listed: {in_one_line(error)}."
        raise ConfigurationError(msg) from None
    for file in found:
        name = system.unstrip_protocol(file)
        yield RecordFile(text_in_utf8(name), name, partial(system.cat_file, file))


def _below(system: Any, path: str, named: Callable[[str], bool]) -> list[str]:  # noqa: ANN401 - fsspec has no types
    """Return the files that a path or a pattern names, and those of the right names below the directories."""
    places = system.glob(path, detail=True) if glob.has_magic(path) else {path: system.info(path)}
    files = [name for name, info in places.items() if info["type"] == "file"]
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(system.find, [name for name, info in places.items() if info["type"] != "file"]):
            files += [file for file in found if named(file.rpartition("/")[2])]
    return sorted(files)
