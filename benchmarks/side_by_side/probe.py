"""Measure one cost of one tool: `python -m side_by_side.probe '<job as JSON>'`, in a separate process; it prints JSON.

The `kind` of the job is `batches`, `idle`, `period` or `week`; its other items are the arguments of that function.
"""

import gc
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.testing.nvml import SimulatedDriver

from .marks import NO_CALL, Marks, marks_of, open_tool
from .tools import Place, Tool
from .week import play_week
from .work import cpu_seconds

WARM_UP = {"ours": 20_000, "zeus": 1000, "codecarbon": 5}
"""Batches before the memory is measured, in which buffers of fixed size fill up."""
SETTLE_S = 1.0
MB = 1e6


def start(kind: str, folder: Path, gpus: int = 1) -> tuple[Tool, Marks | None]:
    """Start a tool on simulated GPUs; return it and the hooks that mark its batches, None if it has no call for them."""
    SimulatedDriver(folder).start(gpus)
    tool = open_tool(kind, Place(gpus))
    tool.start()
    return tool, None if kind in NO_CALL else marks_of(kind, tool)


def repeat(marks: Marks, count: int) -> float:
    """Mark this number of batches, and return the time of one in µs."""
    begin, end = marks.begin, marks.end
    begun = time.perf_counter()
    for _ in range(count):
        begin()
        end()
    return (time.perf_counter() - begun) / count * 1e6


def measure_batches(folder: Path, tool: str, count: int) -> dict[str, float]:
    """Return the time of a batch in µs, and the memory growth in MB over this number of batches.

    The process's memory is measured first, with the time; then Python's own memory, by tracemalloc, which slows everything.
    """
    running, marks = start(tool, folder)
    process = psutil.Process()
    repeat(marks, WARM_UP[tool])
    gc.collect()
    resident = process.memory_info().rss
    us = repeat(marks, count)
    gc.collect()
    resident = process.memory_info().rss - resident
    tracemalloc.start()
    repeat(marks, WARM_UP[tool])  # the contents of the buffers are traced from now on
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    repeat(marks, count)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    running.stop()
    return {"us": us, "resident_mb": resident / MB, "traced_mb": (after - before) / MB}


def measure_idle(folder: Path, tool: str, gpus: int, seconds: float, batches: int) -> dict[str, float | None]:
    """Return the share of a core in percent used by a tool during a batch that sleeps, and the time of an empty batch in µs."""
    running, marks = start(tool, folder, gpus)
    if marks is None:
        share, us = core_share(seconds), None
    else:
        marks.begin()
        share = core_share(seconds)
        marks.end()
        us = repeat(marks, batches)
    running.stop()
    return {"percent": share, "us": us}


def measure_period(folder: Path, interval_s: float, seconds: float) -> dict[str, float]:
    """Return the share of a core in percent that our meter uses with this sampling period."""
    SimulatedDriver(folder).start()
    with EnergyMeter(backends=[NvmlBackend()], sample_interval=interval_s, carbon_intensity=400, verbose=False):
        return {"percent": core_share(seconds)}


def core_share(seconds: float) -> float:
    """Sleep, and return the share of a core in percent that this process and its children used during that time."""
    time.sleep(SETTLE_S)
    cpu, begun = cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    return 100 * (cpu_seconds() - cpu) / (time.perf_counter() - begun)


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "batches": measure_batches,
    "idle": measure_idle,
    "period": measure_period,
    "week": play_week,
}


def main() -> None:
    """Run the job given on the command line, and print its result."""
    job = json.loads(sys.argv[1])
    kind = job.pop("kind")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(KINDS[kind](Path(folder), **job)))


if __name__ == "__main__":
    main()
