"""How each tool marks a batch, at its cheapest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

from .tools import Place, Tool, make

WINDOWS = "ours, a window per batch"

NO_CALL = ("none", "carbontracker")
"""These have no call for a batch."""

CODECARBON_BATCHES = 60
"""So many are enough for a median of about a millisecond."""


class Marks:
    """Two hooks without arguments, which may be replaced."""

    def __init__(self, begin: Callable[[], Any], end: Callable[[], Any]) -> None:
        self.begin = begin
        self.end = end


def batches_for(kind: str, batches: int) -> int:
    """Return how many batches a tool is given."""
    return min(batches, CODECARBON_BATCHES) if kind == "codecarbon" else batches


def nothing() -> None:
    """Do nothing."""


def open_tool(kind: str, place: Place, *, batches: bool = True) -> Tool:
    """Return a tool that measures a run, and its batches where it has a call for them.

    Args:
        kind: Name of the tool, or :data:`WINDOWS`.
        place: What is measured.
        batches: Whether its batches are to be marked.
    """
    single = batches and kind not in {"ours", *NO_CALL}
    return make("ours" if kind == WINDOWS else kind, place, "batch" if single else "total", cheap=True)


def marks_of(kind: str, tool: Any, *, batches: bool = True) -> Marks:
    """Return what marks the batches for a tool that has been started; nothing where it has no call for them."""
    if not batches or kind in NO_CALL:
        return Marks(nothing, nothing)
    if kind == WINDOWS:
        return Marks(partial(tool.begin, "batch"), partial(tool.end, "batch"))
    if kind == "ours":
        return Marks(tool.meter.batch_start, tool.meter.batch_end)
    if kind == "zeus":
        begin, end = tool.monitor.begin_window, tool.monitor.end_window
        return Marks(partial(begin, "batch", sync_execution=False), partial(end, "batch", sync_execution=False))
    numbers = count()
    return Marks(lambda: tool.tracker.start_task(str(next(numbers))), tool.tracker.stop_task)


@contextmanager
def marking(kind: str, place: Place, *, batches: bool = True) -> Iterator[Marks]:
    """Let a tool measure meanwhile, and yield what marks the batches for it."""
    tool = open_tool(kind, place, batches=batches)
    tool.start()
    try:
        yield marks_of(kind, tool, batches=batches)
    finally:
        tool.stop()
