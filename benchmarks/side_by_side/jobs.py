"""Measurements in processes of their own, some at a time, and what many of them tell together."""

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
"""Of fewer values no 95 % interval can be told."""
START_S = 60.0
"""Longest that a process may take beside the run in it."""
BENCHMARKS = Path(__file__).parents[1]


def run_job(module: str, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Run a module of this package on a job, and return what it prints; where it fails, `error` says why.

    Args:
        module: Its name.
        job: What it gets, as JSON.
        seconds: How long the work in it should take.
    """
    command = [sys.executable, "-m", f"side_by_side.{module}", json.dumps(job)]
    # A GPU of this machine is none of the simulated ones.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    limit = START_S + 3 * seconds
    # A group of its own: what the tool started is ended with it.
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
            return {"error": f"It did not end within {limit:.0f} s."}
    if process.returncode:
        last = complaints.strip().splitlines()[-1:] or [f"It ended with status {process.returncode}."]
        return {"error": last[0]}
    return json.loads(out.splitlines()[-1])


def run_jobs(
    module: str, jobs: Sequence[tuple[dict[str, Any], float]], at_once: int, progress: Progress, name: str
) -> list[dict[str, Any]]:
    """Run jobs, each with the time that it should take, in this order, so many at once; return what each prints."""
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
    """Return the value below which this share lies."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def estimate(values: Sequence[float], unit: str = "", of: Callable[[Sequence[float]], float] = median, note: str = "") -> Cell:
    """Return a statistic, the median unless told, with its 95 % interval by bootstrap; of few values, with their range."""
    values = [value for value in values if isfinite(value)]
    if not values:
        return Cell(None, unit=unit, note=note or "It gave no figure.")
    draw = random.Random(0)  # noqa: S311 - no secret
    if len(values) < FEW:
        low, high = (min(values), max(values)) if len(values) > 1 else (None, None)
    else:
        found = sorted(of(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
        low, high = quantile(found, 0.025), quantile(found, 0.975)
    return Cell(of(values), low, high, unit, note, len(values))
