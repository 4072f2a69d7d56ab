"""How a loop ends, and the status and the reason of its run that follow."""

import sys

from ml_energy_callbacks.record.schema import Status


def ending(error: BaseException | None) -> tuple[Status, str | None]:
    """Return the status and the reason of a run that ended with this exception, or with none."""
    if error is None:
        return "completed", None
    status: Status = "failed" if isinstance(error, Exception) else "stopped"
    return status, f"{type(error).__name__}: {_text_of(error)}".rstrip(": ")


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the class of somebody else: the run has ended, and is recorded all the same
        return "its message cannot be read"


def last_exception() -> BaseException | None:
    """Return the exception that ends the interpreter, or the last one that an interactive interpreter has shown."""
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)  # the latter before Python 3.12
    return error if isinstance(error, BaseException) else None
