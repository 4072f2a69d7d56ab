"""What the measurement takes beside a training: short pieces of work, a constant amount of memory, and no late imports."""

import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from ml_energy_callbacks.attribution.features import MOST_COLUMNS
from ml_energy_callbacks.attribution.ledger import Ledger
from ml_energy_callbacks.attribution.phase_energy import StageProblem
from ml_energy_callbacks.attribution.segments import segments
from ml_energy_callbacks.attribution.stage_rows import StageRows
from ml_energy_callbacks.attribution.timeline import Timeline
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.meter.sampler import Poller
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter
from ml_energy_callbacks.testing.scripted import SCRIPTED_DEVICE

LONGEST_S, LONGEST_FIT_S = 0.002, 0.02
BUSY = 1.5
"""Other programs on the machine may take the caches, so that all work takes this much longer."""

Phases = Sequence[tuple[float, float]]
"""Median length in s and power in W of each phase of a cycle."""
USUAL: Phases = ((0.03, 90.0), (0.05, 300.0), (0.04, 400.0))
SHORT: Phases = ((0.0007, 90.0), (0.0013, 300.0), (0.001, 400.0))

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


class Work:
    """Measures work that sleeps now and then, so that other threads can run.

    Attributes:
        times: Processor time between two sleeps, in s.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: list[float] = []
        self._since = 0.0
        monkeypatch.setattr(time, "sleep", self._sleep)

    def do(self, work: Callable[[], object]) -> None:
        self._since = time.thread_time()
        work()
        self._sleep()

    def _sleep(self, _: float = 0.0) -> None:
        now = time.thread_time()
        self.times.append(now - self._since)
        self._since = now


def pieces(work: Work, devices: int, length_s: float, cycle: Phases = USUAL) -> tuple[list[float], list[list[float]]]:
    """Return the processor time of each piece of a seeded run's polls in s, and of the steps of each fit."""
    rng, clock = random.Random(1), ManualClock()
    timeline, curve = Timeline(clock), PowerCurve(clock, 90.0)
    phases = [(timeline.add_bucket(1), median, watts) for median, watts in cycle]
    pairs = []
    for number in range(devices):
        device = replace(SCRIPTED_DEVICE, id=f"scripted:{number}")
        pairs.append((ScriptedCounter(curve, clock, offset_s=rng.random() * 0.1, device=device), Ledger(device, 0.05)))
    poller = Poller(pairs, timeline, 0.05)
    poller.random.seed(1)
    work.times = []
    fits: list[list[float]] = []
    review = clock.now_ns + NS_PER_S
    end = clock.now_ns + round(length_s * NS_PER_S)
    while clock.now_ns < end:
        for bucket, median, watts in phases:
            until = timeline.switch(bucket) + round(median * rng.uniform(0.8, 1.2) * NS_PER_S)
            curve.set(watts)
            while poller.next_poll < until:
                clock.now_ns = max(clock.now_ns, poller.next_poll)
                work.do(poller.poll)
            clock.now_ns = until
        if clock.now_ns > review:
            review += 5 * NS_PER_S
            fits += [fit for _, ledger in pairs if (fit := steps(ledger))]
    return work.times, fits


def steps(ledger: Ledger) -> list[float]:
    """Solve the fits of a device that are due; return the processor time of each step in s."""
    taken = []
    for task in ledger.fit_tasks():
        work, ended = task.steps(), False
        while not ended:
            begun = time.thread_time()
            ended = next(work, True) is True
            taken.append(time.thread_time() - begun)
        ledger.accept([task])
    return taken


def test_no_piece_of_work_holds_up_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads can run between two of them. The run is repeated, as a time may be that of other programs."""
    work = Work(monkeypatch)
    runs = [pieces(work, devices=3, length_s=20.0) for _ in range(3)]
    polls = [min(times) for times in zip(*(polls for polls, _ in runs), strict=True)]
    fits = [[min(times) for times in zip(*same, strict=True)] for same in zip(*(fits for _, fits in runs), strict=True)]
    assert max(polls) <= BUSY * LONGEST_S
    assert max(max(fit) for fit in fits) <= BUSY * LONGEST_S
    assert max(sum(fit) for fit in fits) <= BUSY * LONGEST_FIT_S
    assert len(fits) >= 6


def test_short_batches_on_many_devices_hold_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All devices have rows to add at the same time: there are more switches than the timeline keeps for long."""
    work = Work(monkeypatch)
    runs = [pieces(work, devices=8, length_s=8.0, cycle=SHORT)[0] for _ in range(3)]
    times = [min(same) for same in zip(*runs, strict=True)]
    assert max(times) <= BUSY * LONGEST_S


def test_fits_of_many_phases_are_short_and_small() -> None:
    """Five phases and all of their features: no more columns than a limit, so that memory and time are bounded."""
    rng, rows = random.Random(1), StageRows(5)
    clock, switches, joules = 0, [], [0.0]
    for cycle in range(1500):
        for bucket, median in enumerate((0.05, 0.15, 0.3, 0.4, 0.5), start=1):
            if bucket < 3 or (cycle > 100 and cycle % (3 + 2 * bucket) == 0):
                switches.append((clock, bucket))
                clock += round(median * rng.uniform(0.5, 1.5) * NS_PER_S)
                joules.append(joules[-1] + (20.0 + 70.0 * bucket) * (clock - switches[-1][0]) / NS_PER_S)
    edges = [at / NS_PER_S for at, _ in switches] + [clock / NS_PER_S]
    instants = np.arange(1.0, edges[-1] - 1.0, 0.1)
    energy = np.interp(instants, edges, joules)
    for first in range(0, len(instants) - 24, 24):
        until = instants[first + 24] + 1.0
        these = segments(
            [each for each in switches if instants[first] - 15 < each[0] / NS_PER_S < until],
            round(until * NS_PER_S),
            {b: b for b in range(1, 6)},
            0,
        )
        assert these is not None
        rows.shape(these)
        some = slice(first, first + 25)
        rows.add(instants[some], np.full(25, 1e-4), energy[some], these)
    assert len(rows.basis.columns) <= MOST_COLUMNS
    assert all(any(column.phase == phase for column in rows.basis.columns) for phase in range(1, 6))
    assert sum(block.normal.nbytes for block in rows.equations.blocks) <= 500_000  # two fits of a device are below 1 MB
    problem = rows.problem()
    assert problem is not None
    energies = problem.solve()
    assert energies is not None
    fits = [solved(problem) for _ in range(3)]
    times = [min(same) for same in zip(*fits, strict=True)]
    assert max(times) <= BUSY * LONGEST_S
    assert sum(times) <= BUSY * LONGEST_FIT_S


def solved(problem: StageProblem) -> list[float]:
    """Return the processor time of each step of a solution, in s."""
    work, taken, ended = problem.steps(), [], False
    while not ended:
        begun = time.thread_time()
        ended = next(work, True) is True
        taken.append(time.thread_time() - begun)
    return taken


@pytest.mark.parametrize("batches", [4000, pytest.param(1_000_000, marks=pytest.mark.full)])
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
