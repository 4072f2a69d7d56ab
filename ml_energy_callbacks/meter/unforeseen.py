"""Errors that nobody foresaw: once a run has started, none of ours may end it."""

import signal
from functools import partial
from types import CodeType, FunctionType, MethodType, TracebackType

_PACKAGE = __name__.partition(".")[0]
_LONGEST_TEXT = 200


_handlers: set[CodeType] = set()
"""Handlers of signals that were installed at a start, with those installed when an error was examined."""


def note_handlers() -> None:
    """Remember the handlers of signals that are installed now: one may remove itself before it raises."""
    _handlers.update(code for number in signal.valid_signals() if (code := _code(signal.getsignal(number))) is not None)


def pass_users_error(error: BaseException) -> None:
    """Raise an error again if a handler of a signal raised it; called wherever errors of any kind are caught.

    It is the user's, such as a time limit, and came only by chance while our code ran.
    """
    inner = [] if error.__traceback__ is None else _frames(error)[1:]  # the first is the frame that caught it
    if inner:
        note_handlers()
        if any(frame.tb_frame.f_code in _handlers for frame in inner):
            raise error


def in_words(error: BaseException) -> str:
    """Return an error in one line: its class, what it says, and where in this package it came up."""
    try:
        text = " ".join(str(error).split())[:_LONGEST_TEXT]
    except Exception:  # noqa: BLE001 - a class of somebody else's
        text = ""
    ours = [frame for frame in _frames(error) if frame.tb_frame.f_globals.get("__name__", "").startswith(f"{_PACKAGE}.")]
    place = f" (line {ours[-1].tb_lineno} of {ours[-1].tb_frame.f_globals['__name__']})" if ours else ""
    return f"{type(error).__name__}{': ' * bool(text)}{text}{place}"


def _frames(error: BaseException) -> list[TracebackType]:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    return frames


def _code(handler: object) -> CodeType | None:
    """Return the code of a handler; None where it is no function of Python's."""
    while isinstance(handler, partial | MethodType):
        handler = handler.func if isinstance(handler, partial) else handler.__func__
    if not isinstance(handler, FunctionType):
        handler = getattr(type(handler), "__call__", None)  # noqa: B004 - of an object, not whether it can be called
    return handler.__code__ if isinstance(handler, FunctionType) else None
