"""The local copy of a record that is kept while the record's own place cannot be written."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from ml_energy_callbacks.record.descriptors import with_descriptors
from ml_energy_callbacks.record.storage import LocalFile


class Spare:
    """A file in the first of several local directories that takes it."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Touch nothing yet.

        Args:
            folders: The directories, the best one first; the user's cache and the directory for temporary files follow.
        """
        self._folders = [*folders, *cache_folders()]
        self._file: LocalFile | None = None

    @property
    def place(self) -> Path | None:
        """Where the copy is; None while there is none."""
        return None if self._file is None else self._file.place

    def write(self, name: str, data: bytes) -> bool:
        """Write the copy, and return whether that worked.

        It is not synchronised with the disk: where that hangs for one file, it may hang for this one as well.

        Args:
            name: Name of a new copy.
            data: Its content.
        """
        files = [LocalFile(folder / name) for folder in self._folders]
        if self._file is not None:
            files.insert(0, self._file)
        taken = next((file for file in files if _try(file, data)), None)
        self._file = taken or self._file
        return taken is not None

    def remove(self) -> None:
        """Remove the copy, which is not needed any more."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.remove()


def _try(file: LocalFile, data: bytes) -> bool:
    try:
        file.make_folder()
        with_descriptors(partial(file.write, data, sync=False))
    except OSError:
        return False
    return True


def cache_folders() -> list[Path]:
    """Return local directories that outlive a run, the better one first."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - raises nothing without a home
    return [Path(folder, "ml-energy-callbacks") for folder in (cache, tempfile.gettempdir())]
