"""Batches that may overlap, in threads or tasks: as a context, and as calls of a function."""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

from ml_energy_callbacks.attribution.timeline import LONGEST_QUEUE, Event, Timeline

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Batch:
    """The context of one batch."""

    __slots__ = ("_after", "_begin", "_during", "_samples", "_timeline")

    def __init__(self, timeline: Timeline, samples: int | None, during: int, after: int) -> None:
        """Make a batch of this many samples; bucket ``during`` runs while it does, and ``after`` once the last has ended."""
        self._timeline = timeline
        self._samples = samples
        self._during = during
        self._after = after

    def __enter__(self) -> None:
        """Start the batch."""
        timeline = self._timeline
        self._begin: Event = ("begin", timeline.stamp(), self._during, 0, None, None)
        timeline.queue.append(self._begin)

    def __exit__(self, *_: object) -> None:
        """End the batch, after an exception, too."""
        timeline = self._timeline
        queue = timeline.queue
        queue.append(("end", timeline.stamp(), self._after, 1, self._samples, self._begin))
        if len(queue) > LONGEST_QUEUE:
            timeline.drain_queue()


def each_call(context: Callable[[Any, Any], AbstractContextManager[None]]) -> Callable[[_Function], _Function]:
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
