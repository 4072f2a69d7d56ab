"""Intervals and differences of repeated measurements by Student's t; pure."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, stdev

from ml_energy_callbacks.attribution.student_t import probability_within, quantile
from ml_energy_callbacks.inference.results import Difference, Interval

_LEVEL = 0.05


def interval(values: Sequence[float]) -> Interval | None:
    """Return the mean of independent values with its 95 % interval; None of no value."""
    if not values:
        return None
    count = len(values)
    half = quantile(count - 1) * stdev(values) / math.sqrt(count) if count > 1 else None
    return Interval(mean=fmean(values), half_width=half)


def differences(series: Mapping[str, Mapping[int, float]], relative_width: float) -> list[Difference]:
    """Compare each two series by the paired t-test over the rounds that both have.

    What drifts from round to round hits both of a pair and drops out. Of all pairs together, a difference that is none is
    claimed with a probability of 5 % at most: S. Holm, A simple sequentially rejective multiple test procedure, 1979. One that
    is inside the noise is none, as long as that noise is no larger than those that were asked of both means together; else the
    pair is undecided.

    Args:
        series: Values by round, by name. Pairs with fewer than two rounds in common are left out.
        relative_width: Half-width of the interval of a mean that was asked, as a share of it.
    """
    pairs = [pair for a, b in combinations(series, 2) if (pair := _difference(a, b, series[a], series[b])) is not None]
    least = 0.0
    for i, pair in enumerate(sorted(pairs, key=lambda pair: pair.p_value)):
        least = pair.p_value = max(least, min(1.0, pair.p_value * (len(pairs) - i)))
        if pair.p_value <= _LEVEL:
            pair.verdict = "more" if pair.relative > 0 else "less"
        elif pair.half_width <= 2 * relative_width:
            pair.verdict = "no difference"
    return pairs


def _difference(a: str, b: str, first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return how much more the second is, its verdict still open."""
    common = first.keys() & second.keys()
    found = interval([second[i] - first[i] for i in sorted(common)])
    scale = abs(fmean([first[i] for i in common])) if common else 0.0
    if found is None or found.half_width is None or not scale:
        return None
    freedom = len(common) - 1
    if found.half_width:
        t = abs(found.mean) / found.half_width * quantile(freedom)
        chance = max(0.0, 1 - probability_within(t, freedom))
    else:  # alike in every round
        chance = 0.0 if found.mean else 1.0
    return Difference(
        a=a,
        b=b,
        relative=found.mean / scale,
        half_width=found.half_width / scale,
        p_value=chance,
        verdict="undecided",
    )
