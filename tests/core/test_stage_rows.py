"""Fits of power to the features of a stage's time: what must hold whatever the world."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import COMPUTE, WAIT, Power, World, measure, regular_ramp, three_phases

from ml_energy_callbacks.attribution.device_fit import DeviceFit
from ml_energy_callbacks.attribution.features import MOST_COLUMNS, Basis
from ml_energy_callbacks.attribution.knots import Knot
from ml_energy_callbacks.attribution.segments import segments
from ml_energy_callbacks.attribution.stage_rows import StageRows
from ml_energy_callbacks.attribution.timeline import Timeline, TimelineReader
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.testing import ManualClock

SEEDS = st.integers(0, 10_000)


def loop(seed: int, seconds: float) -> World:
    """Return a short loop whose power rises in each batch."""
    rng = np.random.default_rng(seed)
    lengths = np.column_stack([rng.uniform(0.02, 0.05, 400), rng.uniform(0.08, 0.2, 400)]).ravel()
    edges = np.concatenate([[0.0], np.cumsum(lengths)])
    count = int(np.searchsorted(edges, seconds)) // 2 * 2
    watts = np.tile([90.0, 400.0], count // 2) * rng.normal(1, 0.02, count)
    power = Power(edges[: count + 1], np.append(watts, 90.0), 0.01)
    return World(edges[: count + 1], np.tile([WAIT, COMPUTE], count // 2), power)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.floats(0.05, 10))
def test_all_figures_scale_with_the_power(seed: int, factor: float) -> None:
    world = loop(seed, 20.0)
    power = world.power
    assert isinstance(power, Power)
    scaled = replace(world, power=Power(power.starts, power.targets * factor, power.taus), resolution=0.001 * factor)
    for one, other in zip(measure(world, seed).splits, measure(scaled, seed).splits, strict=True):
        assert other.joules == pytest.approx(factor * one.joules, rel=1e-3)
        assert other.half_width == pytest.approx(factor * one.half_width, rel=1e-2)


def test_figures_do_not_depend_on_the_zero_of_the_clock() -> None:
    found = []
    for shift in (0, 10**6 * NS_PER_S):
        switches = [(shift + i * 150_000_000 + (i % 7) * 3_000_000, 1 + i % 2) for i in range(200)]
        rows = StageRows(2)
        these = segments(switches, shift + 31 * NS_PER_S, {1: 1, 2: 2}, shift)
        assert these is not None
        rows.shape(these)
        knots = np.arange(1.0, 29.0, 0.1)
        rows.add(knots, np.full(len(knots), 1e-4), 300 * knots + np.sin(9 * knots), these)
        problem = rows.problem()
        assert problem is not None
        energies = problem.solve()
        assert energies is not None
        found.append(energies.joules)
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_longer_waits_take_more_energy(seed: int) -> None:
    world = loop(seed, 20.0)
    rows = np.diff(world.edges)
    longer = np.concatenate([[0.0], np.cumsum(np.where(world.phases == WAIT, 2 * rows, rows))])
    power = world.power
    assert isinstance(power, Power)
    slow = replace(world, edges=longer, power=Power(longer, power.targets, power.taus))
    assert measure(slow, seed).splits[WAIT].joules > measure(world, seed).splits[WAIT].joules


def test_integrals_of_ages_add_up_to_the_time_in_a_phase() -> None:
    world = loop(1, 30.0)
    switches = [(round(edge * NS_PER_S), 1 + int(phase)) for edge, phase in zip(world.edges[:-1], world.phases, strict=True)]
    these = segments(switches, round(world.edges[-1] * NS_PER_S), {1: 1, 2: 2}, 0)
    assert these is not None
    basis = Basis()
    basis.add_shapes(these, [1, 2])
    instants = np.sort(np.random.default_rng(1).uniform(0.5, 29, 300))
    integrals, times = basis.integrals(these, instants), these.times(instants)
    for phase in (1, 2):
        ages = [i for i, column in enumerate(basis.columns) if column.kind == "age" and column.phase == phase]
        assert integrals[:, ages].sum(axis=1) == pytest.approx(times[:, phase], abs=1e-9)


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    rng = np.random.default_rng(1)

    def feed(rows: StageRows, begin: float, intervals: int) -> None:
        lengths = rng.uniform(0.02, 0.06, 4 * intervals)
        edges = begin + np.concatenate([[0.0], np.cumsum(lengths)])
        clocks = [(round(edge * NS_PER_S), 1 + i % 2) for i, edge in enumerate(edges)]
        these = segments(clocks, clocks[-1][0] + NS_PER_S, {1: 1, 2: 2}, 0)
        assert these is not None
        rows.shape(these)
        knots = begin + 0.1 * np.arange(1, intervals)
        rows.add(knots, np.full(len(knots), 1e-4), 200 * knots, these)

    rows, sizes = StageRows(2), []
    tracemalloc.start()
    for i in range(160):
        feed(rows, 4.0 * i, 30)
        if i in {60, 159}:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert rows.equations.rows == 160 * 28
    assert sizes[1] < 1.3 * sizes[0]
    assert sizes[1] < 1_000_000
    assert len(rows.equations.blocks) <= 32


@pytest.mark.parametrize("window_s", [0.025, 0.1])
def test_readings_of_power_are_means_over_their_window(window_s: float) -> None:
    held = 0
    for seed in range(4):
        world = loop(seed, 35.0)
        marks = [(round(edge * NS_PER_S), 1 + int(phase)) for edge, phase in zip(world.edges[:-1], world.phases, strict=True)]
        these = segments(marks, round(world.edges[-1] * NS_PER_S), {1: 1, 2: 2}, 0)
        assert these is not None
        ends = np.arange(1.0 + 0.01 * seed, world.edges[-1] - 0.5, 0.1)
        watts = (world.power.joules(ends) - world.power.joules(ends - window_s)) / window_s
        shown = np.concatenate([[0.0], np.cumsum(watts[1:] * np.diff(ends))])
        rows = StageRows(2)
        rows.shape(these)
        for begin in range(0, len(ends) - 1, 32):
            some = slice(begin, begin + 33)
            rows.add(ends[some], np.zeros(len(ends[some])), shown[some], these, window_s)
        problem = rows.problem()
        energies = None if problem is None else problem.solve()
        assert energies is not None
        edges = np.unique(np.concatenate([world.edges.clip(ends[0], ends[-1]), ends[[0, -1]]]))
        waiting = world.phases[np.searchsorted(world.edges, (edges[:-1] + edges[1:]) / 2, "right") - 1] == WAIT
        true = float(np.diff(world.power.joules(edges))[waiting].sum())
        held += abs(energies.joules[WAIT] - true) <= energies.half_widths[WAIT]
        assert energies.half_widths[WAIT] < 0.5 * energies.joules[WAIT]
    assert held >= 3


def test_columns_are_bounded_with_many_phases() -> None:
    switches = [(i * 20_000_000 + (i % 5) * 1_000_000, 1 + i % 5) for i in range(500)]
    these = segments(switches, 11 * NS_PER_S, {b: b for b in range(1, 6)}, 0)
    assert these is not None
    basis = Basis()
    basis.add_shapes(these, [1, 2, 3, 4, 5])
    assert len(basis.columns) <= MOST_COLUMNS
    assert {column.phase for column in basis.columns if column.kind == "age"} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("build", [regular_ramp, three_phases])
def test_phases_are_told_apart_however_few_batches_came_first(build: object) -> None:
    assert callable(build)
    world = build(3)
    cut = int(np.searchsorted(world.edges, 3.0)) // 6 * 6
    short = replace(world, edges=world.edges[: cut + 1], phases=world.phases[:cut])
    run = measure(short, 3)
    assert run.splits[WAIT].low <= run.true[WAIT] <= run.splits[WAIT].high


@pytest.mark.parametrize(("batch_s", "told_apart"), [(0.0008, False), (0.02, True)])
def test_batches_too_short_to_be_told_apart_get_no_rows(batch_s: float, *, told_apart: bool) -> None:
    """Thousands of their segments in each second would take more of the loop's time than all else."""
    clock = ManualClock()
    timeline = Timeline(clock)
    wait, compute = timeline.add_bucket(1), timeline.add_bucket(1)
    reader, fit, joules = TimelineReader(timeline), DeviceFit(), 0.0
    for i in range(200):
        for _ in range(round(0.05 / batch_s)):
            timeline.switch(wait)
            clock.advance(0.2 * batch_s * (1 + i % 3 / 10))
            timeline.switch(compute)
            clock.advance(0.8 * batch_s)
        reader.refresh()
        joules += 5.0 + i % 3 / 10
        fit.add_knot(Knot(clock(), 0.0, joules, starts=i == 0))
        while fit.work_off(reader):
            pass
    assert bool(fit.problems(every_row=True)) is told_apart
