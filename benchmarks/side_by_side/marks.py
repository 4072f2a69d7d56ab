"""How each tool marks a batch, at its lowest cost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from time import perf_counter_ns
from typing import Any

from ml_energy_callbacks.backends.nvml import NvmlBackend

from .tools import Place, Tool, make

WINDOWS = "ours, a window per batch"
EDGES = "ours, with GPU events"

NO_CALL = ("none", "carbontracker")
"""These have no call for a batch."""

CODECARBON_BATCHES = 60
"""This number is enough for a median of about a millisecond."""


class Marks:
    """Two hooks without arguments, which may be replaced."""

    def __init__(self, begin: Callable[[], Any], end: Callable[[], Any]) -> None:
        self.begin = begin
        self.end = end


LATENCY_NS = 20_000
NS_PER_MS = 1e6


class ScriptedEvent:
    """An event that the GPU reaches a little later, and whose driver reports it immediately."""

    def __init__(self):
        self.time_ns = perf_counter_ns() + LATENCY_NS

    def query(self) -> bool:
        """Return whether the GPU has reached it."""
        return perf_counter_ns() >= self.time_ns

    def elapsed_time(self, end_event: "ScriptedEvent") -> float:
        """Return the time from this event to another in ms."""
        return (end_event.time_ns - self.time_ns) / NS_PER_MS


def batches_for(kind: str, batches: int) -> int:
    """Return the number of batches for a tool."""
    return min(batches, CODECARBON_BATCHES) if kind == "codecarbon" else batches


def nothing() -> None:
    """Do nothing."""


def open_tool(kind: str, place: Place, *, batches: bool = True) -> Tool:
    """Return a tool that measures a run, and its batches where it has a call for them.

    Args:
        kind: Name of the tool, :data:`WINDOWS` or :data:`EDGES`.
        place: What is measured.
        batches: Whether its batches are to be marked.
    """
    single = batches and kind not in {"ours", EDGES, *NO_CALL}
    tool = make("ours" if kind in {WINDOWS, EDGES} else kind, place, "batch" if single else "total", cheap=True)
    if kind == EDGES:
        tool.record_event = ScriptedEvent
    return tool


def marks_of(kind: str, tool: Any, *, batches: bool = True) -> Marks:
    """Return the hooks that mark the batches for a running tool; empty hooks where it has no call for them."""
    if not batches or kind in NO_CALL:
        return Marks(nothing, nothing)
    if kind == WINDOWS:
        return Marks(partial(tool.begin, "batch"), partial(tool.end, "batch"))
    if kind in {"ours", EDGES}:
        return Marks(tool.meter.batch_start, tool.meter.batch_end)
    if kind == "zeus":
        begin, end = tool.monitor.begin_window, tool.monitor.end_window
        return Marks(partial(begin, "batch", sync_execution=False), partial(end, "batch", sync_execution=False))
    numbers = count()
    return Marks(lambda: tool.tracker.start_task(str(next(numbers))), tool.tracker.stop_task)


@contextmanager
def marking(kind: str, place: Place, *, batches: bool = True) -> Iterator[Marks]:
    """Run a tool during the block, and yield the hooks that mark the batches for it."""
    tool = open_tool(kind, place, batches=batches)
    tool.start()
    try:
        yield marks_of(kind, tool, batches=batches)
    finally:
        tool.stop()


def hook_times(
    kind: str,
    batches: int,
    fit: Callable[[Any, int], list[int]],
    empty: Callable[[], Any],
    ours: Callable[..., Any],
    marked: Callable[[Marks], Any],
) -> list[int]:
    """Return the time of a tool's hooks of each batch in ns; ours are those of the callback.

    Args:
        kind: Name of the tool.
        batches: Number of batches; fewer for a slow tool.
        fit: Runs a loop of a framework with a callback and so many batches, and returns their times.
        empty: Makes the framework's callback that does nothing.
        ours: Makes our callback.
        marked: Makes a callback that marks the batches for a tool.
    """
    if kind == "none":
        return fit(empty(), batches)
    if kind == "ours":
        return fit(ours(backends=[NvmlBackend()], carbon_intensity=400, verbose=False), batches)
    with marking(kind, Place()) as marks:
        return fit(marked(marks), batches_for(kind, batches))
