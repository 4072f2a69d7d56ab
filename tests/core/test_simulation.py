"""The core in simulated worlds whose truth is known: a training loop, a counter with a refresh grid, dithered polls."""

from statistics import median, quantiles

import pytest
from simulation import simulate

# The table of what a single 60 s run reaches: medians of 100 seeds.
# refresh, wait and compute s | wait energy: error, said +- | one batch: p50, p95 error; all relative.
TABLE = [
    (0.100, 0.100, 0.400, 0.002, 0.03, 0.001, 0.003),
    (0.100, 0.050, 0.200, 0.003, 0.04, 0.002, 0.007),
    (0.100, 0.020, 0.040, 0.03, 0.06, 0.013, 0.041),
    (0.100, 0.005, 0.020, 0.09, 0.24, 0.018, 0.054),
    (0.020, 0.050, 0.200, 0.03, 0.08, 0.002, 0.023),
    (0.001, 0.020, 0.040, 0.007, 0.03, 0.006, 0.025),
]


@pytest.mark.parametrize(("refresh", "wait", "compute", "error", "width", "p50", "p95"), TABLE)
def test_accuracy_is_at_least_that_of_the_table(
    refresh: float, wait: float, compute: float, error: float, width: float, p50: float, p95: float
) -> None:
    runs = [simulate(refresh_s=refresh, wait_s=wait, compute_s=compute, seed=seed) for seed in range(100)]
    assert median(abs(run.wait_error) for run in runs) <= error + 0.0005  # the table's figures are rounded
    assert median(run.wait_half_width / run.wait_joules for run in runs) <= width
    assert median(median(run.batch_errors) for run in runs) <= p50
    assert median(quantiles(run.batch_errors, n=20)[-1] for run in runs) <= p95
    # The total is the counter's own.
    assert max(abs(run.joules / run.true_joules - 1) for run in runs) <= 0.001


def test_stated_intervals_hold_in_at_least_180_of_200_worlds() -> None:
    held = 0
    for seed in range(200):
        refresh, wait, compute, *_ = TABLE[seed % len(TABLE)]
        run = simulate(refresh_s=refresh, wait_s=wait, compute_s=compute, seed=1000 + seed, duration_s=30)
        held += run.holds
    assert held >= 180


def test_a_phase_that_always_fills_the_same_share_of_a_refresh_is_not_told_apart() -> None:
    run = simulate(refresh_s=0.1, wait_s=0.05, compute_s=0.05, seed=1, spread=0.0, latency_s=0.0)
    assert not run.wait_resolved or run.wait_half_width > 0.5 * run.wait_joules


def test_the_grid_is_recognised() -> None:
    assert simulate(refresh_s=0.1, wait_s=0.02, compute_s=0.04, seed=1, duration_s=5).grid == "regular"
    assert simulate(refresh_s=0.001, wait_s=0.02, compute_s=0.04, seed=1, duration_s=5).grid == "continuous"
