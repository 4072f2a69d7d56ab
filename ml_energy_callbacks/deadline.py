"""Calls into drivers that may never come back, and how long they are waited for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")


def in_background(work: Callable[[], _Result]) -> Future[_Result]:
    """Call in a thread of its own, which does not keep the interpreter from ending."""
    outcome: Future[_Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            outcome.set_exception(error)

    threading.Thread(target=run, name="ml-energy-start", daemon=True).start()
    return outcome


def within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Return what a call returns, as long as it ends within so many seconds.

    Raises:
        TimeoutError: It did not, and is left to itself.
    """
    return in_background(work).result(seconds)
