"""Read the kernel's small files, which contain one number or one word each."""

import os
from pathlib import Path

from ml_energy_callbacks.exceptions import ReadError

_LONGEST_NUMBER = 32
"""In bytes: a number of 64 bits has 20 digits."""

_LARGEST_LIMIT_WATTS = 100e3
"""A larger limit of power is a driver's word for none, such as all ones."""


class NumberFile:
    """A file that contains one integer and is kept open, so that a read is one system call.

    The kernel generates the content at each read from the start. When a device disappears, its open descriptor becomes
    invalid; the file is therefore reopened after a failure, and a device that returns at the same path is read again.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: The file does not exist, or this user has no permission to read it.
        """
        # Links are resolved: when a driver is reloaded, hwmon numbers are reassigned, possibly to another device.
        self._path = path.resolve()
        self._descriptor: int | None = os.open(self._path, os.O_RDONLY)
        self._closed = False

    def read(self) -> int:
        """Return the number.

        Raises:
            ReadError: The file could not be read, contains no number, or is closed.
        """
        if self._closed:
            msg = f"{self._path} is closed."
            raise ReadError(msg)
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY)
            text = os.pread(self._descriptor, _LONGEST_NUMBER, 0)
            # A full buffer may have truncated the number, and Python parses 1_0 as 10.
            if len(text) < _LONGEST_NUMBER and b"_" not in text:
                return int(text)
        except ValueError:
            pass
        except OSError as error:
            self._close_descriptor()
            msg = f"{self._path} cannot be read: {error.strerror}"
            raise ReadError(msg) from error
        msg = f"{self._path} contains no number: {text!r}"
        raise ReadError(msg)

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        self._closed = True
        self._close_descriptor()

    def _close_descriptor(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_limit_watts(folder: Path, *names: str) -> float | None:
    """Return the largest of a device's power limits in W, which files of these names hold in µW; None if none does."""
    texts = (read_text(folder / name) or "" for name in names)
    limits = [watts for text in texts if text.isdecimal() and 0 < (watts := int(text) / 1e6) < _LARGEST_LIMIT_WATTS]
    return max(limits, default=None)


def read_text(path: Path) -> str | None:
    """Return a file's content without surrounding spaces, or None if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
