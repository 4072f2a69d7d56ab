"""File descriptors that are kept for the records of a process that may open no more files."""

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_Result = TypeVar("_Result")

_KEPT = 2
"""A record is written while the lock of its directory is held."""


class _Reserve:
    """Descriptors of this process that lead nowhere; a fork has the same, but none of the threads that may hold the lock."""

    def __init__(self) -> None:
        self.handles: list[int] = []
        self.renew_lock()

    def renew_lock(self) -> None:
        self.lock = threading.RLock()

    def fill(self) -> None:
        with self.lock, suppress(OSError):
            while len(self.handles) < _KEPT:
                self.handles.append(os.open(os.devnull, os.O_RDONLY))

    def release(self) -> None:
        while self.handles:
            os.close(self.handles.pop())


_RESERVE = _Reserve()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RESERVE.renew_lock)


def with_descriptors(work: Callable[[], _Result]) -> _Result:
    """Do work that opens one or two files, with descriptors that were kept for that if the process may open no more.

    Raises:
        Exception: Whatever the work raises.
    """
    _RESERVE.fill()
    try:
        return work()
    except OSError as error:
        if error.errno not in {errno.EMFILE, errno.ENFILE}:
            raise
    with _RESERVE.lock:
        _RESERVE.release()
        try:
            return work()
        finally:
            _RESERVE.fill()
