"""Detects, by its stack frame, that a framework's loop has ended by an exception without calling a hook."""

import contextlib
import gc
import inspect
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from ml_energy_callbacks.meter.ending import ending, last_exception
from ml_energy_callbacks.record.schema import Status

if TYPE_CHECKING:
    from ml_energy_callbacks.frameworks.parts import Parts

_RESUMED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

_UNSEEN = "The loop ended by an exception that was handled before it could be recorded."


class StackLoop:
    """A loop that runs as long as its frame is on the stack of the current thread.

    Attributes:
        thread: The thread in which it runs.
        parts: What marks the parts of its batches of training; None where nothing does.
    """

    def __init__(self, frame: FrameType | None) -> None:
        """Watch a frame; with None, the loop counts as ended."""
        self.thread = threading.get_ident()
        self.parts: Parts | None = None
        self._frame = frame
        self._seen = self._exception()

    def running(self) -> bool:
        """Return whether its frame is still on its thread's stack."""
        with _no_collection():
            frame = sys._current_frames().get(self.thread)  # noqa: SLF001 - the documented access to another thread's stack
            outermost = frame
            while frame is not None:
                if frame is self._frame:
                    return True
                frame, outermost = frame.f_back, frame
        # A generator that yielded during this walk has left the stack, and the frames that called it cannot be reached from it.
        return outermost is not None and bool(outermost.f_code.co_flags & _RESUMED)

    def ending(self) -> tuple[Status, str | None]:
        """Return the status of a loop that has ended without calling a hook, and its reason."""
        error, seen = self._exception(), self._seen
        self.release()
        return ("failed", _UNSEEN) if error is None or error is seen else ending(error)

    def release(self) -> None:
        """Watch it no longer: what its frame and an older exception hold is free to go, and its objects are as they were."""
        self._frame = self._seen = None
        if self.parts is not None:
            self.parts.restore()

    def _exception(self) -> BaseException | None:
        """Return the exception that the loop's thread is handling, or that is ending the interpreter."""
        handled = sys._current_exceptions().get(self.thread)  # noqa: SLF001 - documented beside the one above
        # Before Python 3.12 it is a tuple, as of sys.exc_info().
        error = handled[1] if isinstance(handled, tuple) else handled
        return error if isinstance(error, BaseException) else last_exception()


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Disable garbage collection while the body walks another thread's stack.

    The interpreter creates a frame object when a frame is read. Before Python 3.12 this may start a collection, in which the
    interpreter may switch to the other thread; that may leave the frame while its object is being created, which crashes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
