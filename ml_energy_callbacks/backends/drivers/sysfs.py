"""Reading the kernel's small files: one number or one word each."""

import os
from pathlib import Path

from ml_energy_callbacks.exceptions import ReadError

_LONGEST_NUMBER = 32
"""Bytes: 64 bits take 20 digits."""


class NumberFile:
    """A file that holds one integer, kept open: a read is one system call.

    The kernel makes up the content anew at each read from the start. A device that goes away takes the open descriptor with
    it for good, so that the file is opened again after a failure: a device that comes back at the same place is read again.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: It is not there, or this user may not read it.
        """
        # Without links: hwmon numbers are given anew when a driver is loaded again, and may then be another device's.
        self._path = path.resolve()
        self._descriptor: int | None = os.open(self._path, os.O_RDONLY)
        self._closed = False

    def read(self) -> int:
        """Return the number.

        Raises:
            ReadError: It could not be read, is not a number, or the file is closed.
        """
        if self._closed:
            msg = f"{self._path} is closed."
            raise ReadError(msg)
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY)
            text = os.pread(self._descriptor, _LONGEST_NUMBER, 0)
            # A full buffer may have cut the number, and Python takes 1_0 for 10.
            if len(text) < _LONGEST_NUMBER and b"_" not in text:
                return int(text)
        except ValueError:
            pass
        except OSError as error:
            self._drop()
            msg = f"{self._path} cannot be read: {error.strerror}"
            raise ReadError(msg) from error
        msg = f"{self._path} holds no number: {text!r}"
        raise ReadError(msg)

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_text(path: Path) -> str | None:
    """Return what a file holds without the spaces around it, or None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
