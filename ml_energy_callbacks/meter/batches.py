"""Batches that may overlap, in threads or tasks: as a context, and as calls of a function."""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from operator import index
from typing import Any, Self, TypeVar, cast

from ml_energy_callbacks.attribution.timeline import LONGEST_QUEUE, Event, Size, Timeline
from ml_energy_callbacks.meter.options import is_flag
from ml_energy_callbacks.meter.unforeseen import pass_users_error
from ml_energy_callbacks.metrics import MOST_COUNT
from ml_energy_callbacks.safe_text import describe

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Batch:
    """The context of one batch; what it holds may be set before its end, as where a model generates tokens.

    Attributes:
        samples: Number of samples; None where it is unknown.
        tokens: Number of tokens; None where it is unknown.
    """

    __slots__ = ("_after", "_begin", "_checked", "_during", "_timeline", "samples", "tokens")

    def __init__(
        self,
        timeline: Timeline,
        samples: Any,  # noqa: ANN401 - as the user gives it
        tokens: Any,  # noqa: ANN401 - as above
        during: int,
        after: int,
        checked: Callable[[Any, str], int | None],
    ) -> None:
        """Make a batch of so much.

        Args:
            timeline: The timeline.
            samples: Number of samples, or None.
            tokens: Number of tokens, or None.
            during: Bucket that runs while the batch does.
            after: Bucket that runs once the last batch has ended.
            checked: Returns a number as a plain one, given what it counts, or warns and returns None where it is none.
        """
        self._timeline = timeline
        self.samples = samples
        self.tokens = tokens
        self._during = during
        self._after = after
        self._checked = checked

    def __enter__(self) -> Self:
        """Start the batch."""
        timeline = self._timeline
        self._begin: Event = ("begin", timeline.stamp(), self._during, 0, None, None)
        timeline.queue.append(self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        """End the batch, after an exception, too."""
        timeline = self._timeline
        queue = timeline.queue
        stamp = timeline.stamp()
        size = self.samples
        if self.tokens is not None or (size is not None and (size.__class__ is not int or size < 0)):
            size = checked_size(self._checked, size, self.tokens)
        queue.append(("end", stamp, self._after, 1, size, self._begin))
        if len(queue) > LONGEST_QUEUE:
            timeline.drain_queue()


def checked_size(checked: Callable[[Any, str], int | None], samples: object, tokens: object) -> Size:
    """Return the size of a batch from numbers of any kind; what is no number is unknown, with a warning.

    Args:
        checked: Returns a number as a plain one, given what it counts.
        samples: Number of samples, or None.
        tokens: Number of tokens, or None.
    """
    size = None if samples is None else checked(samples, "samples")
    return size if tokens is None else (size, checked(tokens, "tokens"))


def whole_number(number: Any) -> int | None:  # noqa: ANN401 - as the user gives it
    """Return a number of things as a plain one, also of numpy or torch; None where it is none, as a flag is."""
    try:
        whole = -1 if is_flag(number) else index(number)
    except Exception as error:  # noqa: BLE001 - the user's object
        pass_users_error(error)
        return None
    return whole if 0 <= whole <= MOST_COUNT else None


def checked_number(warn: Callable[[str], None], number: Any, what: str) -> int | None:  # noqa: ANN401 - as above
    """Return a number of samples or tokens as a plain one; None, with a warning, where it is none."""
    whole = whole_number(number)
    if whole is None:
        warn(f"{describe(number)} is not a number of {what}: energy per {what[:-1]} is unknown.")
    return whole


def each_call(context: Callable[[Any, Any], AbstractContextManager[object]]) -> Callable[[_Function], _Function]:
    """Return a decorator that runs each call of a function in a context of its arguments.

    A coroutine function's call lasts until it has returned; a generator's, also an asynchronous one's, from its first item to
    its end.
    """

    def decorate(function: _Function) -> _Function:
        called: Any = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004 - an object with an asynchronous __call__

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - what the function takes and returns
            with context(args, kwargs):
                return function(*args, **kwargs)

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
            with context(args, kwargs):
                return await function(*args, **kwargs)

        @functools.wraps(function)
        def generate(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
            with context(args, kwargs):
                return (yield from function(*args, **kwargs))

        @functools.wraps(function)
        async def generate_async(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
            with context(args, kwargs):
                async for item in function(*args, **kwargs):
                    yield item

        kinds = (
            (inspect.iscoroutinefunction, call_async),
            (inspect.isgeneratorfunction, generate),
            (inspect.isasyncgenfunction, generate_async),
        )
        return cast("_Function", next((wrapper for is_kind, wrapper in kinds if is_kind(function) or is_kind(called)), call))

    return decorate
