"""How much a fit depends on single stretches of time: leave some out, and fit again; pure.

A posterior believes the model; the scatter of the fits without each block does not. It is valid also if neighbouring rows are
correlated and if powers drift (B. Efron and C. Stein, The jackknife estimate of variance, 1981).
"""

import numpy as np

from ml_energy_callbacks.attribution.equations import Groups
from ml_energy_callbacks.attribution.evidence import Fit
from ml_energy_callbacks.attribution.segments import Floats
from ml_energy_callbacks.attribution.steps import Steps

_WIDTHS = (1, 2, 4)
"""Numbers of neighbouring blocks that are left out at once, as correlations may be long; the widest scatter counts."""

_AT_ONCE = 4
"""Fits in a step, each of 0.1 ms."""


def jackknife(groups: Groups, fit: Fit, targets: Floats) -> Steps[Floats]:
    """Return the variance of linear functions of the coefficients, by leaving blocks out, in steps.

    Args:
        groups: The blocks.
        fit: The fit to all of them.
        targets: Weights of the coefficients, a row for each function.
    """
    count = len(groups.seconds)
    widths = [width for width in _WIDTHS if -(-count // width) > 1]
    if not widths:
        return np.full(len(targets), np.inf)
    normal, right = groups.normal, groups.right
    if fit.drift_variance:
        shrunk = 1 / (groups.seconds + fit.variance / fit.drift_variance)
        normal = normal - (shrunk[:, None] * groups.features)[:, :, None] * groups.features[:, None, :]
        right = right - (shrunk * groups.sums)[:, None] * groups.features
    whole_normal, whole_right = normal.sum(axis=0), right.sum(axis=0)
    yield
    variances = []
    for width in widths:
        begins = np.arange(0, count, width)
        rest = (whole_normal - np.add.reduceat(normal, begins)) / fit.variance + fit.precision
        sides = (whole_right - np.add.reduceat(right, begins)) / fit.variance
        squares = np.zeros(len(targets))
        for first in range(0, len(begins), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            without = np.linalg.solve(rest[some], sides[some, :, None])[:, :, 0]
            squares += (((without - fit.coefficients) @ targets.T) ** 2).sum(axis=0)
            yield
        variances.append((len(begins) - 1) / len(begins) * squares)
    result: Floats = np.max(variances, axis=0)
    return result
