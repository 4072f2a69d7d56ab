"""The energy of layers by least squares: planted energies with the scatter of blocks, and what is not negative."""

import random
from collections.abc import Sequence

import pytest

from ml_energy_callbacks.inference.layers.fit import Fit, Row

PARENTS = [None, None, 1, 1, None]
LAYERS = [0.5, 4.0, 2.5, 1.0, 0.4]
"""Energy in J; 1 has two parts, and 0.5 J of its own."""
REST = 1.0
WHOLE = LAYERS[0] + LAYERS[1] + LAYERS[4] + REST


def blocks(seed: int, *, rounds: int = 5, scatter: float = 0.03, layers: Sequence[float] = LAYERS) -> list[Row]:
    """Return rounds of a block for each layer, which is repeated for two to four times the energy of a step."""
    rng = random.Random(seed)
    rows = []
    for _ in range(rounds):
        for repeats in ({}, {}, *({i: max(1, round(rng.choice((2, 3, 4)) * WHOLE / each))} for i, each in enumerate(LAYERS))):
            joules = WHOLE + sum(times * layers[i] for i, times in repeats.items())
            rows.append(Row(joules * rng.gauss(1, scatter), repeats))
    return rows


def test_without_scatter_the_energies_are_exact() -> None:
    fit = Fit(PARENTS, blocks(0, scatter=0.0))
    assert [fit.layer(i).joules for i in range(5)] == pytest.approx(LAYERS)
    assert fit.whole().joules == pytest.approx(WHOLE)
    assert fit.rest([0, 1, 4]).joules == pytest.approx(REST)
    assert fit.rest([1]).joules == pytest.approx(REST + LAYERS[0] + LAYERS[4])
    assert fit.excess == 0


def test_intervals_hold_the_planted_energies(*, full: bool) -> None:
    held = dict.fromkeys((*range(5), "whole", "rest"), 0)
    seeds = 1000 if full else 100
    for seed in range(seeds):
        fit = Fit(PARENTS, blocks(seed))
        found = {**{i: (fit.layer(i), each) for i, each in enumerate(LAYERS)}, "whole": (fit.whole(), WHOLE)}
        found["rest"] = (fit.rest([0, 1, 4]), REST)
        assert fit.layer(1).joules >= fit.layer(2).joules + fit.layer(3).joules - 1e-9
        for name, (estimate, truth) in found.items():
            held[name] += estimate.low <= truth <= estimate.high
    assert min(held.values()) >= 0.9 * seeds


def test_layers_that_use_more_alone_than_the_step_are_limited_to_it() -> None:
    layers = [each * 1.5 for each in LAYERS]
    fit = Fit(PARENTS, blocks(1, scatter=0.001, layers=layers))
    assert fit.excess == pytest.approx(0.5 * (WHOLE - REST) - REST, rel=0.05)
    rest = fit.rest([0, 1, 4])
    assert rest.joules == rest.low == 0
    assert sum(fit.layer(i).joules for i in (0, 1, 4)) == pytest.approx(fit.whole().joules)


def test_too_few_blocks_show_nothing() -> None:
    rows = blocks(0, rounds=1)  # two are plain, and one is of each layer
    assert [Fit(PARENTS, each).known for each in (rows[:1], rows[1:], rows)] == [False, False, True]
    assert Fit(PARENTS, rows).layer(0).high > 2 * LAYERS[0]  # one degree of freedom
    assert Fit(PARENTS, rows[:3]).fitted == [0]
