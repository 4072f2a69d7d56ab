"""Counters of Linux's perf events, by the system call itself: Python's standard library has no function for it."""

import ctypes
import errno
import os
import platform
import struct

from ml_energy_callbacks.exceptions import ReadError

_CALL_NUMBERS = {("Linux", "x86_64"): 298, ("Linux", "aarch64"): 241}
"""Numbers of ``perf_event_open``: Linux, arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h."""

_ATTRIBUTES = struct.Struct("=IIQQQQQIIQ")
"""First version of ``struct perf_event_attr``, which every kernel accepts: type, size, config, and zeros."""

_ANY_PROCESS = -1
_NO_GROUP = -1
_CLOSE_ON_EXEC = 8
"""``PERF_FLAG_FD_CLOEXEC``."""

_COUNT = struct.Struct("=Q")


class PerfEvent:
    """An event that one CPU counts for all processes, from the moment it is opened."""

    def __init__(self, kind: int, config: int, cpu: int) -> None:
        """Start counting.

        Args:
            kind: Number of the unit that counts (``type`` in ``/sys/bus/event_source/devices/<unit>``).
            config: Number of the event.
            cpu: Number of the CPU.

        Raises:
            OSError: The event does not exist here; PermissionError if this user has no permission to count on a whole CPU.
        """
        number = _CALL_NUMBERS.get((platform.system(), platform.machine()))
        if number is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._descriptor: int | None = _open(number, kind, config, cpu)

    def read(self) -> int:
        """Return the present count.

        Raises:
            ReadError: The event could not be read, or is closed.
        """
        if self._descriptor is None:
            msg = "The event is closed."
            raise ReadError(msg)
        try:
            count = os.read(self._descriptor, _COUNT.size)
        except OSError as error:
            raise ReadError(str(error)) from error
        if len(count) != _COUNT.size:
            msg = "The kernel no longer counts the event."
            raise ReadError(msg)
        value: int = _COUNT.unpack(count)[0]
        return value

    def close(self) -> None:
        """Stop counting; calling it twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open(number: int, kind: int, config: int, cpu: int) -> int:
    try:
        attributes = _ATTRIBUTES.pack(kind, _ATTRIBUTES.size, config, 0, 0, 0, 0, 0, 0, 0)
    except struct.error as error:  # a number that is too large for its field
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error
    library = ctypes.CDLL(None, use_errno=True)
    descriptor: int = library.syscall(
        ctypes.c_long(number),
        ctypes.c_char_p(attributes),
        ctypes.c_int(_ANY_PROCESS),
        ctypes.c_int(cpu),
        ctypes.c_int(_NO_GROUP),
        ctypes.c_ulong(_CLOSE_ON_EXEC),
    )
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return descriptor
