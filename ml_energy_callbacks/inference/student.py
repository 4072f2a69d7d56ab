"""Confidence intervals and differences of repeated measurements, with Student's t distribution; pure."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, stdev, variance

from ml_energy_callbacks.attribution.student_t import probability_within, quantile
from ml_energy_callbacks.inference.results import Difference, Interval, Verdict

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
        pair.verdict = _verdict(pair, relative_width)
    return pairs


def difference_between(first: Sequence[float], second: Sequence[float], relative_width: float) -> Difference | None:
    """Compare two series of different sessions, whose rounds have nothing in common, with Welch's t-test.

    Degrees of freedom: B. L. Welch, The generalization of 'Student's' problem when several different population variances are
    involved, 1947; rounded down. None with fewer than two values in one of them.

    Args:
        first: Values of the first, which is ``baseline``.
        second: Values of the second, which is ``now``.
        relative_width: As in :func:`differences`.
    """
    both = (first, second)
    if min(map(len, both)) < 2 or not fmean(first):  # noqa: PLR2004 - two values have a scatter
        return None
    errors = [variance(values) / len(values) for values in both]
    total = sum(errors)
    within = sum(error**2 / (len(values) - 1) for error, values in zip(errors, both, strict=True))
    freedom = int(total**2 / within) if within else len(first) + len(second) - 2
    half = quantile(freedom) * math.sqrt(total)
    pair = _difference("baseline", "now", fmean(second) - fmean(first), half, freedom, abs(fmean(first)))
    pair.verdict = _verdict(pair, relative_width)
    return pair


def _verdict(pair: Difference, relative_width: float) -> Verdict:
    if pair.p_value <= _LEVEL:
        return "more" if pair.relative > 0 else "less"
    return "no difference" if pair.half_width <= 2 * relative_width else "undecided"


def _compare_pair(a: str, b: str, first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return the difference of the second series from the first, without a verdict yet."""
    common = first.keys() & second.keys()
    found = interval([second[i] - first[i] for i in sorted(common)])
    scale = abs(fmean([first[i] for i in common])) if common else 0.0
    if found is None or found.half_width is None or not scale:
        return None
    return _difference(a, b, found.mean, found.half_width, len(common) - 1, scale)


def _difference(a: str, b: str, mean: float, half_width: float, freedom: int, scale: float) -> Difference:
    if half_width:
        t = abs(mean) / half_width * quantile(freedom)
        chance = max(0.0, 1 - probability_within(t, freedom))
    else:  # identical in every round
        chance = 0.0 if mean else 1.0
    return Difference(
        a=a,
        b=b,
        relative=mean / scale,
        half_width=half_width / scale,
        p_value=chance,
        verdict="undecided",
    )
