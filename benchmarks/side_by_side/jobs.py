"""Run measurements in separate processes, several at a time, and combine their results."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

from .results import Cell, Progress

RESAMPLES = 1000
FEW = 6
"""With fewer values there is no 95 % interval."""
START_S = 60.0
"""Longest time that a process may take in addition to its run."""
BENCHMARKS = Path(__file__).parents[1]


def run_job(module: str, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Run a module of this package on a job, and return what it prints; if it fails, `error` is the reason.

    Args:
        module: Its name.
        job: Its arguments, as JSON.
        seconds: Expected duration of its work.
    """
    command = [sys.executable, "-m", f"side_by_side.{module}", json.dumps(job)]
    # A GPU of this machine is not one of the simulated ones.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    limit = START_S + 3 * seconds
    # A separate process group, so that processes started by the tool are ended with it.
    with subprocess.Popen(
        command,
        cwd=BENCHMARKS,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, complaints = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return {"error": f"Timed out after {limit:.0f} s."}
    if process.returncode:
        last = complaints.strip().splitlines()[-1:] or [f"Exited with status {process.returncode}."]
        return {"error": last[0]}
    return json.loads(out.splitlines()[-1])


def run_jobs(
    module: str, jobs: Sequence[tuple[dict[str, Any], float]], at_once: int, progress: Progress, name: str
) -> list[dict[str, Any]]:
    """Run jobs in this order, each with its expected duration, several at once; return what each prints."""
    ended = 0

    def one(job: tuple[dict[str, Any], float]) -> dict[str, Any]:
        nonlocal ended
        found = run_job(module, *job)
        ended += 1
        progress(f"{name}: {ended} of {len(jobs)}")
        return found

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, jobs))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the quantile: the value below which this fraction of the values lies."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def estimate(values: Sequence[float], unit: str = "", of: Callable[[Sequence[float]], float] = median, note: str = "") -> Cell:
    """Return a statistic, by default the median, with its 95 % interval by bootstrap; for few values, with their range."""
    values = [value for value in values if isfinite(value)]
    if not values:
        return Cell(None, unit=unit, note=note or "It gave no value.")
    draw = random.Random(0)  # noqa: S311 - no secret
    if len(values) < FEW:
        low, high = (min(values), max(values)) if len(values) > 1 else (None, None)
    else:
        found = sorted(of(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
        low, high = quantile(found, 0.025), quantile(found, 0.975)
    return Cell(of(values), low, high, unit, note, len(values))
