"""Student's t distribution; pure."""

import math
from functools import cache

_LEVEL = 0.95
_BISECTIONS = 60


def probability_within(t: float, freedom: int) -> float:
    """Return the probability that Student's t lies between ``-t`` and ``t``.

    For whole degrees of freedom it is a finite sum: M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 1964,
    26.7.3 and 26.7.4.

    Args:
        t: From 0 upwards.
        freedom: Degrees of freedom, 1 or more.
    """
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = math.cos(angle) ** odd, 0.0
    for k in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k + 1) / (k + 2)
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total


@cache
def quantile(freedom: int) -> float:
    """Return the t that 95 % of Student's distribution lie within, to both sides of 0."""
    low, high = 0.0, 1.0
    while probability_within(high, freedom) < _LEVEL:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if probability_within(middle, freedom) < _LEVEL:
            low = middle
        else:
            high = middle
    return high
