"""Windows: their energy, its interval, and what becomes of those that cannot be."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from worlds import COMPUTE, KINDS, MORE_KINDS, measure

from ml_energy_callbacks.meter.points import Window
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter
from ml_energy_callbacks.testing.scripted import SCRIPTED_DEVICE

WAIT_WATTS, COMPUTE_WATTS = 90.0, 300.0


class World:
    """A training on some GPUs of the same power under a manual clock.

    Attributes:
        clock: The clock.
        curve: Power of each GPU.
        counter: The counter of the first one.
        meter: The meter.
    """

    def __init__(self, seed: int = 2, gpus: int = 1, late_s: float = 0.0) -> None:
        """Start with idle GPUs, whose counters are late."""
        self.clock, self.rng = ManualClock(), random.Random(seed)
        self.curve = PowerCurve(self.clock, WAIT_WATTS)
        counters = [
            ScriptedCounter(
                self.curve,
                lambda: self.clock() - round(late_s * 1e9),
                period_s=0.1,
                offset_s=0.01 * gpu,
                device=replace(SCRIPTED_DEVICE, id=f"scripted:{gpu}", latency_s=late_s),
            )
            for gpu in range(gpus)
        ]
        self.counter = counters[0]
        self.meter = SteppedMeter(self.clock, backends=[ScriptedBackend(counters)], carbon_intensity=1, verbose=False)

    def wait(self, seconds: float = 0.04) -> None:
        self.curve.set(WAIT_WATTS)
        self.clock.advance(seconds * self.rng.uniform(0.7, 1.3))

    def compute(self, seconds: float = 0.15) -> None:
        with self.meter.batch(samples=1):
            self.curve.set(COMPUTE_WATTS)
            self.clock.advance(seconds * self.rng.uniform(0.7, 1.3))

    def batches(self, count: int) -> None:
        for _ in range(count):
            self.wait()
            self.compute()


def test_windows_hold_what_was_used_in_them() -> None:
    world, windows = World(), []
    with world.meter as meter:
        with meter.stage("train"):
            for _ in range(200):
                world.wait()
                before = world.curve.joules()
                with meter.window() as window:
                    world.compute()
                windows.append((window, world.curve.joules() - before))
        world.wait(0.5)
    known = [(window, true) for window, true in windows[30:] if window.joules is not None]
    assert len(known) >= 150
    held = [(window.low_joules or 0.0) <= true <= (window.high_joules or 0.0) for window, true in known]
    assert sum(held) >= 0.9 * len(held)
    assert sorted(abs((window.joules or 0.0) / true - 1) for window, true in known)[len(known) // 2] < 0.03


VARIED = (
    "ramp 20 ms",
    "lag 20 ms",
    "power by batch size",
    "30 % of batches 4 times as long at less power",
    "batches of 1.3 s",
    "three phases",
    "noise 15 %",
    "lag that changes",
    "refresh 20 ms",
)
"""Kinds of worlds in which power is not constant in a phase, or follows its length."""


@pytest.mark.statistics
@pytest.mark.parametrize("kind", VARIED)
def test_windows_of_batches_hold_whatever_power_depends_on(kind: str, *, full: bool) -> None:
    held: list[bool] = []
    halves: list[float] = []
    for seed in range(20 if full else 2):
        world = (KINDS.get(kind) or MORE_KINDS[kind])(seed)
        batches = [i for i, phase in enumerate(world.phases) if phase == COMPUTE and world.edges[i] > 20][::5][:25]
        edges = np.array([[world.edges[i], world.edges[i + 1]] for i in batches])
        marks = iter(measure(world, seed, asked_s=edges.ravel().tolist()).asked)
        for true in np.diff(world.power.joules(edges)).ravel().tolist():
            with Window(lambda marks=marks: next(marks)) as window:
                pass
            assert window.joules is not None
            held.append((window.low_joules or 0.0) <= true <= (window.high_joules or 0.0))
            halves.append(((window.high_joules or 0.0) - window.joules) / window.joules)
    assert sum(held) >= 0.9 * len(held)
    assert float(np.median(halves)) < 0.25


@pytest.mark.parametrize("gpus", [4, 8])
def test_windows_on_several_late_gpus_hold(gpus: int) -> None:
    """The GPUs of one backend are all late by the same time."""
    world, windows = World(gpus=gpus, late_s=0.002), []
    with world.meter as meter, meter.stage("train"):
        for _ in range(80):
            world.wait(0.025)
            before, window = world.curve.joules(), meter.window()
            window.__enter__()
            world.wait(0.025)
            with meter.batch(samples=1):
                world.curve.set(COMPUTE_WATTS)
                world.clock.advance(0.075 * world.rng.uniform(0.7, 1.3))
                window.__exit__()
                windows.append((window, gpus * (world.curve.joules() - before)))
                world.clock.advance(0.075 * world.rng.uniform(0.7, 1.3))
    known = [(window, true) for window, true in windows[30:] if window.joules is not None]
    assert len(known) >= 45
    held = [(window.low_joules or 0.0) <= true <= (window.high_joules or 0.0) for window, true in known]
    assert sum(held) >= 0.9 * len(held)


def test_a_window_is_known_while_a_long_phase_goes_on() -> None:
    world = World()
    with world.meter as meter, meter.stage("train"):
        world.batches(100)
        before = world.curve.joules()
        with meter.window() as window:
            world.batches(2)
        true = world.curve.joules() - before
        world.wait(1.0)
        assert window.joules is not None
        assert (window.low_joules or 0.0) <= true <= (window.high_joules or 0.0)
        world.wait(10.0)


def test_a_window_waits_for_no_end_of_an_only_phase() -> None:
    world = World()
    with world.meter as meter, meter.stage("predict"):
        world.wait(10.0)
        before = world.curve.joules()
        with meter.window() as window:
            world.wait(1.0)
        true = world.curve.joules() - before
        world.wait(0.3)
        assert window.joules == pytest.approx(true, rel=0.05)
        world.wait(1.0)


def test_a_window_is_known_when_the_meter_stops_in_a_batch() -> None:
    world = World()
    meter = world.meter.start()
    meter.begin_stage("train")
    world.batches(100)
    meter.batch_start()
    world.curve.set(COMPUTE_WATTS)
    before = world.curve.joules()
    with meter.window() as window:
        world.clock.advance(0.2)
    true = world.curve.joules() - before
    world.clock.advance(0.1)
    meter.stop()
    assert window.joules is not None
    assert (window.low_joules or 0.0) <= true <= (window.high_joules or 0.0)


@pytest.mark.parametrize("learned", [0, 5, 100])
def test_a_window_shorter_than_a_refresh_holds_what_was_used(learned: int) -> None:
    held = []
    for seed in range(4):
        world = World(seed)
        windows = []
        with world.meter as meter:
            with meter.stage("train"):
                world.batches(learned)
                for _ in range(10):
                    world.wait()
                    with meter.batch(samples=1):
                        world.curve.set(COMPUTE_WATTS)
                        world.clock.advance(world.rng.uniform(0.02, 0.08))
                        before = world.curve.joules()
                        with meter.window() as window:
                            world.clock.advance(0.005)
                        windows.append((window, world.curve.joules() - before))
                        world.clock.advance(world.rng.uniform(0.02, 0.08))
            world.wait(0.5)
        for window, true in windows:
            assert window.joules is not None
            held.append(0 <= (window.low_joules or 0.0) <= true <= (window.high_joules or 0.0))
    assert sum(held) >= 0.95 * len(held)


def test_a_window_of_no_time_has_no_energy() -> None:
    world = World()
    with world.meter as meter:
        with meter.stage("train"):
            world.batches(30)
            with meter.window() as window:
                pass
        world.wait(0.5)
    assert (window.joules, window.low_joules) == (0.0, 0.0)
    assert (window.high_joules or 0.0) < 30  # J: that of one refresh, more or less


@pytest.mark.parametrize("counts_on", [True, False])
def test_a_window_across_a_gap_is_told_only_if_its_energy_is_known(*, counts_on: bool) -> None:
    world = World()
    with world.meter as meter:
        with meter.stage("train"):
            world.batches(30)
            before = world.curve.joules()
            with meter.window() as window:
                world.batches(5)
                world.counter.failing = True
                world.batches(15)
                world.counter.failing = False
                if not counts_on:  # the driver was loaded anew
                    world.counter.start_joules = -world.curve.joules()
                world.batches(5)
            true = world.curve.joules() - before
            world.batches(5)
        world.wait(0.5)
    if counts_on:
        assert (window.low_joules or 0.0) <= true <= (window.high_joules or 0.0)
    else:
        assert (window.joules, window.low_joules, window.high_joules) == (None, None, None)


def test_an_edge_in_a_silent_time_widens_the_interval() -> None:
    world = World()
    with world.meter as meter:
        with meter.stage("train"):
            world.batches(30)
            world.counter.failing = True
            world.wait(2.0)
            before = world.curve.joules()
            with meter.window() as window:
                world.batches(10)
                true = world.curve.joules() - before
            world.counter.failing = False
            world.batches(10)
        world.wait(0.5)
    assert (window.low_joules or 0.0) <= true <= (window.high_joules or 0.0)


def test_a_window_of_a_device_that_never_answers_again_stays_unknown() -> None:
    world = World()
    with world.meter as meter, meter.stage("train"):
        world.batches(30)
        with meter.window() as window:
            world.batches(5)
            world.counter.failing = True
            world.batches(20)
        assert window.joules is None
    assert (window.joules, window.low_joules, window.high_joules) == (None, None, None)


def test_a_window_that_ends_with_the_run_is_bounded() -> None:
    world = World()
    with world.meter as meter:
        meter.begin_stage("train")
        world.batches(30)
        before = world.curve.joules()
        with meter.window() as window:
            world.batches(1)
        true = world.curve.joules() - before
    assert (window.low_joules or 0.0) <= true <= (window.high_joules or 0.0)


def test_a_window_that_was_never_entered_is_unknown() -> None:
    world = World()
    with world.meter as meter:
        window = meter.window()
        world.batches(10)
        window.__exit__(None, None, None)
        world.wait(0.5)
    assert (window.joules, window.low_joules, window.high_joules) == (None, None, None)


def test_a_window_that_is_used_again_has_the_figures_of_the_last_time() -> None:
    world = World()
    with world.meter as meter:
        with meter.stage("train"):
            window = meter.window()
            for count in (30, 10):
                before = world.curve.joules()
                with window:
                    assert window.joules is None
                    world.batches(count)
                true = world.curve.joules() - before
        world.wait(0.5)
    assert window.joules == pytest.approx(true, rel=0.05)
    assert (window.low_joules or 0.0) <= true <= (window.high_joules or 0.0)


def test_a_window_that_ends_before_it_begins_is_unknown() -> None:
    world = World()
    with world.meter as meter:
        with meter.stage("train"), meter.window() as window:
            world.batches(10)
        world.wait(0.5)
    assert window.joules is not None
    window.start, window.end = window.end, window.start
    assert (window.joules, window.low_joules, window.high_joules) == (None, None, None)


def test_a_window_over_a_stop_of_the_meter_is_unknown() -> None:
    world = World()
    meter, window = world.meter.start(), world.meter.window()
    world.batches(20)
    window.__enter__()
    world.batches(10)
    meter.stop()
    world.wait(3.0)
    meter.start()
    world.batches(10)
    window.__exit__(None, None, None)
    world.wait(0.5)
    meter.stop()
    assert (window.joules, window.low_joules, window.high_joules) == (None, None, None)


def test_a_window_without_a_device_has_no_range(tmp_path: Path) -> None:
    clock = ManualClock()
    meter = SteppedMeter(clock, backends=[], output_dir=tmp_path, carbon_intensity=1, verbose=False)
    with meter, meter.window() as window:
        clock.advance(1.0)
    assert (window.joules, window.low_joules, window.high_joules) == (None, None, None)


def test_metrics_between_reversed_points_are_left_out_with_a_warning() -> None:
    world = World()
    with world.meter as meter, meter.stage("train"):
        world.batches(3)
        earlier = meter.point()
        world.batches(3)
        later = meter.point()
        assert meter.metrics("train", later, earlier) == {}
        assert meter.counts("train", later, earlier).batches == 0
        meter.add_epoch("train", 0, later, earlier)
        assert meter.metrics("train", earlier, later)["energy/train/joules"] > 0
    record = meter.record
    assert record.epochs == []
    assert record.warnings == ["A window ends before it begins, and its figures are left out: give the earlier point first."]
