"""Calls into drivers that may never come back, and how long they are waited for."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import TypeVar

from ml_energy_callbacks.readings import Source

_Result = TypeVar("_Result")

_CLOSE_S = 1.0


class LateError(Exception):
    """A call did not end in time."""

    def __str__(self) -> str:
        """Say so."""
        return "no answer"


def in_background(work: Callable[[], _Result]) -> Future[_Result]:
    """Call in a thread of its own, which does not keep the interpreter from ending.

    Where no thread can start (none is left; or Python 3.12 ends, which takes all handles with it), that is how it ends.
    """
    outcome: Future[_Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            outcome.set_exception(error)

    try:
        threading.Thread(target=run, name="ml-energy-driver", daemon=True).start()
    except RuntimeError as error:
        outcome.set_exception(error)
    return outcome


def within(seconds: float, outcome: Future[_Result]) -> _Result:
    """Return what a call returns, as long as it ends within so many seconds.

    Raises:
        LateError: It did not, and is left to itself.
        Exception: What the call raised; what is no ``Exception`` is the cause of a ``RuntimeError``.
    """
    if not wait([outcome], seconds).done:
        raise LateError
    error = outcome.exception()
    if error is not None and not isinstance(error, Exception):
        raise RuntimeError(repr(error)) from error
    return outcome.result()


def close(sources: Iterable[Source]) -> None:
    """Give devices' handles back, whatever their drivers make of it, and wait a second for that at most."""
    wait([in_background(source.close) for source in sources], _CLOSE_S)
