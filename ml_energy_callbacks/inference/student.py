"""Confidence intervals and differences of repeated measurements, with Student's t distribution; pure."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, stdev

from ml_energy_callbacks.attribution.student_t import probability_within, quantile
from ml_energy_callbacks.inference.results import Difference, Interval

_LEVEL = 0.05


def interval(values: Sequence[float]) -> Interval | None:
    """Return the mean of independent values with its 95 % interval; None without values."""
    if not values:
        return None
    count = len(values)
    half = quantile(count - 1) * stdev(values) / math.sqrt(count) if count > 1 else None
    return Interval(mean=fmean(values), half_width=half)


def differences(series: Mapping[str, Mapping[int, float]], relative_width: float) -> list[Difference]:
    """Compare each pair of series with a paired t-test over their common rounds.

    Drift between rounds affects both series of a pair and cancels. The probability of a false difference among all pairs is at
    most 5 %: S. Holm, A simple sequentially rejective multiple test procedure, 1979. A difference within the noise
    is ``no difference`` if the noise is no larger than what was requested for both means together; else it is ``undecided``.

    Args:
        series: Values by round, by name. Pairs with fewer than two rounds in common are left out.
        relative_width: Requested half-width of the interval of a mean, as a share of it.
    """
    pairs = [pair for a, b in combinations(series, 2) if (pair := _compare_pair(a, b, series[a], series[b])) is not None]
    least = 0.0
    for i, pair in enumerate(sorted(pairs, key=lambda pair: pair.p_value)):
        least = pair.p_value = max(least, min(1.0, pair.p_value * (len(pairs) - i)))
        if pair.p_value <= _LEVEL:
            pair.verdict = "more" if pair.relative > 0 else "less"
        elif pair.half_width <= 2 * relative_width:
            pair.verdict = "no difference"
    return pairs


def _compare_pair(a: str, b: str, first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return the difference of the second series from the first, without a verdict yet."""
    common = first.keys() & second.keys()
    found = interval([second[i] - first[i] for i in sorted(common)])
    scale = abs(fmean([first[i] for i in common])) if common else 0.0
    if found is None or found.half_width is None or not scale:
        return None
    freedom = len(common) - 1
    if found.half_width:
        t = abs(found.mean) / found.half_width * quantile(freedom)
        chance = max(0.0, 1 - probability_within(t, freedom))
    else:  # identical in every round
        chance = 0.0 if found.mean else 1.0
    return Difference(
        a=a,
        b=b,
        relative=found.mean / scale,
        half_width=found.half_width / scale,
        p_value=chance,
        verdict="undecided",
    )
