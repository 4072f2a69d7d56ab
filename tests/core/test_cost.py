"""What the measurement takes beside a training: short pieces of work, a constant amount of memory, and no late imports."""

import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest

from ml_energy_callbacks.attribution.ledger import Ledger
from ml_energy_callbacks.attribution.timeline import Timeline
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.meter.sampler import Poller
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter
from ml_energy_callbacks.testing.scripted import SCRIPTED_DEVICE

LONGEST_S, LONGEST_FIT_S = 0.002, 0.02
BUSY = 2
"""Other programs on the machine may take the caches, so that all work takes this much longer."""

PROGRAM = """
import random, sys
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter

clock, rng = ManualClock(), random.Random(1)
curve = PowerCurve(clock, 90.0)
backend = ScriptedBackend([ScriptedCounter(curve, clock)])
with SteppedMeter(clock, backends=[backend], carbon_intensity=1, verbose=False) as meter, meter.stage("train"):
    before = set(sys.modules)
    for _ in range(300):
        clock.advance(0.05 * rng.uniform(0.7, 1.3))
        with meter.batch(samples=1):
            curve.set(400.0)
            clock.advance(0.1 * rng.uniform(0.7, 1.3))
        curve.set(90.0)
    print(*sorted(set(sys.modules) - before))
"""


def test_nothing_is_imported_once_a_loop_runs() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of some work, in s."""
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def pieces(devices: int, length_s: float) -> tuple[list[float], list[list[float]]]:
    """Return the processor time of each poll of a seeded run in s, and of the steps of each fit."""
    rng, clock = random.Random(1), ManualClock()
    timeline, curve = Timeline(clock), PowerCurve(clock, 90.0)
    phases = [(timeline.add_bucket(1), seconds, watts) for seconds, watts in ((0.03, 90.0), (0.05, 300.0), (0.04, 400.0))]
    pairs = []
    for number in range(devices):
        device = replace(SCRIPTED_DEVICE, id=f"scripted:{number}")
        pairs.append((ScriptedCounter(curve, clock, offset_s=rng.random() * 0.1, device=device), Ledger(device, 0.05)))
    poller = Poller(pairs, timeline, 0.05)
    poller._random.seed(1)
    polls, fits, review = [], [], clock.now_ns + NS_PER_S
    end = clock.now_ns + round(length_s * NS_PER_S)
    while clock.now_ns < end:
        for bucket, median, watts in phases:
            until = timeline.switch(bucket) + round(median * rng.uniform(0.8, 1.2) * NS_PER_S)
            curve.set(watts)
            while poller.next_poll < until:
                clock.now_ns = max(clock.now_ns, poller.next_poll)
                polls.append(seconds(poller.poll))
            clock.now_ns = until
        if clock.now_ns > review:
            review += 5 * NS_PER_S
            fits += [fit for _, ledger in pairs if (fit := steps(ledger))]
    return polls, fits


def steps(ledger: Ledger) -> list[float]:
    """Solve the fits of a device that are due; return the processor time of each step in s."""
    taken = []
    for task in ledger.fit_tasks():
        work, ended = task.steps(), False
        while not ended:
            begun = time.thread_time()
            ended = next(work, True) is True
            taken.append(time.thread_time() - begun)
        ledger.accept(task)
    return taken


def test_no_piece_of_work_holds_up_the_training() -> None:
    """Other threads can run between the steps of a fit. The run is repeated, as a time may be that of other programs."""
    runs = [pieces(devices=3, length_s=20.0) for _ in range(3)]
    polls = [min(times) for times in zip(*(polls for polls, _ in runs), strict=True)]
    fits = [[min(times) for times in zip(*same, strict=True)] for same in zip(*(fits for _, fits in runs), strict=True)]
    assert max(polls) <= BUSY * LONGEST_S
    assert max(max(fit) for fit in fits) <= BUSY * LONGEST_S
    assert max(sum(fit) for fit in fits) <= BUSY * LONGEST_FIT_S
    assert len(fits) >= 6


@pytest.mark.parametrize("batches", [4000, pytest.param(10_000_000, marks=pytest.mark.full)])
def test_memory_does_not_grow_with_the_batches_of_a_run(batches: int) -> None:
    clock, rng = ManualClock(), random.Random(1)
    curve = PowerCurve(clock, 90.0)
    backend = ScriptedBackend([ScriptedCounter(curve, clock)])

    def train(count: int, wait_s: float, compute_s: float) -> None:
        for _ in range(count):
            clock.advance(wait_s * rng.uniform(0.8, 1.2))
            meter.batch_start()
            clock.advance(compute_s * rng.uniform(0.8, 1.2))
            meter.batch_end(4)

    tracemalloc.start()
    with SteppedMeter(clock, backends=[backend], carbon_intensity=1, verbose=False) as meter, meter.stage("train"):
        train(2500, 0.03, 0.07)
        before, _ = tracemalloc.get_traced_memory()
        train(batches // 2, 0.03, 0.07) if batches < 10_000 else train(batches, 0.0003, 0.0007)
        after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 500_000  # some hundred switches more or less are remembered
