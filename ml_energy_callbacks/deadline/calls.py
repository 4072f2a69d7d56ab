"""Calls that may never return, such as those into drivers, with a time limit."""

import errno
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import TypeVar

from ml_energy_callbacks.readings import Source

_Result = TypeVar("_Result")

_CLOSE_S = 1.0


class LateError(Exception):
    """A call did not finish in time."""

    def __str__(self) -> str:
        """Return a short message."""
        return "no answer"


class ThreadError(OSError):
    """No thread can be started: none is left to this user, or the interpreter ends."""


def in_background(work: Callable[[], _Result]) -> Future[_Result]:
    """Run a call in a daemon thread of its own, which does not delay the end of the interpreter.

    If no thread can be started, the future has a :class:`ThreadError`.
    """
    outcome: Future[_Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised when the result is read
            outcome.set_exception(error)

    if sys.is_finalizing():  # before Python 3.12, a thread would then be waited for for ever
        outcome.set_exception(ThreadError(errno.EAGAIN, "the interpreter ends"))
        return outcome
    around = sys.exception()  # one that the caller handles becomes the context of whatever is raised here
    try:
        threading.Thread(target=run, name="ml-energy-driver", daemon=True).start()
    except RuntimeError as error:
        if error.__context__ is not around and error.__context__ is not None:  # Ctrl-C in start(), which waits for the thread
            raise error.__context__ from None
        outcome.set_exception(ThreadError(errno.EAGAIN, str(error)))
    return outcome


def within(seconds: float, outcome: Future[_Result]) -> _Result:
    """Return the result of a call if it finishes within this many seconds.

    Raises:
        LateError: The call did not finish; it continues in the background.
        ThreadError: It did not begin.
        Exception: The error of the call; an error that is no ``Exception`` becomes the cause of a ``RuntimeError``.
    """
    if not wait([outcome], seconds).done:
        raise LateError
    error = outcome.exception()
    if error is not None and not isinstance(error, Exception):
        raise RuntimeError(repr(error)) from error
    return outcome.result()


def close(sources: Iterable[Source]) -> None:
    """Close devices, ignoring errors of their drivers, and wait at most a second for that."""
    wait([in_background(source.close) for source in sources], _CLOSE_S)
