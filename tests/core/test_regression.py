"""Mean power of each phase, and how sure it is."""

import random

import pytest

from ml_energy_callbacks.attribution.regression import PowerFit

TRAIN_WAIT, TRAIN_COMPUTE, TEST_WAIT, TEST_COMPUTE = 1, 2, 3, 4
WATTS = {TRAIN_WAIT: 90.0, TRAIN_COMPUTE: 420.0, TEST_WAIT: 80.0, TEST_COMPUTE: 300.0}


def feed(fit: PowerFit, rng: random.Random, buckets: tuple[int, int], group: int, count: int) -> None:
    for _ in range(count):
        share = rng.uniform(0.1, 0.5)
        seconds = {buckets[0]: 0.1 * share, buckets[1]: 0.1 * (1 - share)}
        joules = sum(WATTS[b] * rng.gauss(1, 0.03) * time for b, time in seconds.items())
        fit.add(seconds, joules, [], group)


def test_a_short_stage_after_a_long_one_has_an_interval_of_its_own(*, full: bool) -> None:
    held, seeds = 0, 100 if full else 16
    for seed in range(seeds):
        rng, fit = random.Random(seed), PowerFit()
        feed(fit, rng, (TRAIN_WAIT, TRAIN_COMPUTE), 0, 2000)
        feed(fit, rng, (TEST_WAIT, TEST_COMPUTE), 1, 40)
        found = fit.fit()
        half = found.half_widths[TEST_COMPUTE]
        assert half is not None
        assert half > 0.2
        held += abs(found.watts[TEST_COMPUTE] - WATTS[TEST_COMPUTE]) <= half
    assert held >= 0.88 * seeds


def test_too_few_intervals_of_a_stage_tell_nothing_about_it() -> None:
    rng, fit = random.Random(1), PowerFit()
    feed(fit, rng, (TRAIN_WAIT, TRAIN_COMPUTE), 0, 2000)
    feed(fit, rng, (TEST_WAIT, TEST_COMPUTE), 1, 5)
    found = fit.fit()
    assert found.half_widths[TEST_COMPUTE] is None
    assert found.half_widths[TRAIN_COMPUTE] is not None
    assert found.watts[TRAIN_COMPUTE] == pytest.approx(420, rel=0.01)


def test_phases_in_always_the_same_mix_are_not_told_apart() -> None:
    fit = PowerFit()
    for _ in range(500):
        fit.add({TRAIN_WAIT: 0.05, TRAIN_COMPUTE: 0.05}, 25.5, [(TRAIN_WAIT, 1e-8), (TRAIN_COMPUTE, 1e-8)])
    assert fit.fit().half_widths == {TRAIN_WAIT: None, TRAIN_COMPUTE: None}
