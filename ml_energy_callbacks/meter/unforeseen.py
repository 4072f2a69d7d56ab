"""Errors that nobody foresaw: once a run has started, none of ours may end it."""

import signal
from functools import partial
from types import FunctionType, MethodType, TracebackType

_PACKAGE = __name__.partition(".")[0]
_LONGEST_TEXT = 200


def is_users(error: BaseException) -> bool:
    """Return whether a handler of a signal raised an exception: the user's, it came only by chance while our code ran."""
    codes = {code for number in signal.valid_signals() if (code := _code(signal.getsignal(number))) is not None}
    return any(frame.tb_frame.f_code in codes for frame in _frames(error))


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


def _code(handler: object) -> object:
    """Return the code of a handler; None where it is no function of Python's."""
    while isinstance(handler, partial | MethodType):
        handler = handler.func if isinstance(handler, partial) else handler.__func__
    return handler.__code__ if isinstance(handler, FunctionType) else None
