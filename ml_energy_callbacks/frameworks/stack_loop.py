"""A framework's loop that ends by an exception without a word, seen by its stack frame."""

import contextlib
import gc
import inspect
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from ml_energy_callbacks.meter.ending import ending, last_exception
from ml_energy_callbacks.record.schema import Status

_RESUMED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

_UNSEEN = "The loop ended by an exception, which was handled before it could be seen."


class StackLoop:
    """A loop that runs as long as a frame is on the stack of the thread that made this.

    Attributes:
        thread: The thread that it runs in.
    """

    def __init__(self, frame: FrameType | None) -> None:
        """Watch a frame; None where there is none, and nothing is seen."""
        self.thread = threading.get_ident()
        self._frame = frame
        self._seen = self._exception()

    def running(self) -> bool:
        """Return whether its frame is on its thread's stack still."""
        with _no_collection():
            frame = sys._current_frames().get(self.thread)  # noqa: SLF001 - the documented way to another thread's stack
            outermost = frame
            while frame is not None:
                if frame is self._frame:
                    return True
                frame, outermost = frame.f_back, frame
        # A generator that yielded while we looked has left the stack, and the rest of it is not to be seen from there.
        return outermost is not None and bool(outermost.f_code.co_flags & _RESUMED)

    def ending(self) -> tuple[Status, str | None]:
        """Return how the loop ended that is gone without a word."""
        error = self._exception()
        self._frame = None  # what belongs to the loop is nobody's any more
        return ("failed", _UNSEEN) if error is None or error is self._seen else ending(error)

    def _exception(self) -> BaseException | None:
        """Return the exception that the loop's thread handles now, or that ends the interpreter."""
        handled = sys._current_exceptions().get(self.thread)  # noqa: SLF001 - documented beside the one above
        # Before Python 3.12 it is a tuple, as of sys.exc_info().
        error = handled[1] if isinstance(handled, tuple) else handled
        return error if isinstance(error, BaseException) else last_exception()


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Let no garbage be collected while the body looks at another thread's stack.

    The interpreter makes an object of a frame when it is looked at. Before Python 3.12 that may start a collection, and this a
    switch to the other thread, which goes on and leaves the frame: what is made of it then is a crash.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
