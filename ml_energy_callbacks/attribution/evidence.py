"""The fit of power to features, with the scales of its prior chosen by the readings themselves (empirical Bayes); pure.

For each set of scales, the marginal likelihood says how well the readings are explained when the coefficients are left open
(D. MacKay, Bayesian interpolation, 1992). A coordinate search finds the best sets, and their mean is reported: what the scales
leave open widens the interval.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite

import numpy as np

from ml_energy_callbacks.attribution.equations import Groups
from ml_energy_callbacks.attribution.prior import DRIFT, EARLY, LATE, LENGTH, Prior, Scales
from ml_energy_callbacks.attribution.segments import Floats
from ml_energy_callbacks.attribution.steps import Steps

_CHOICES = {"early": EARLY, "late": LATE, "length": LENGTH, "drift": DRIFT}
_SWEEPS = 2
"""Rounds of the coordinate search; a third one seldom finds a better set."""

_MOST_FITS, _LEAST_WEIGHT = 6, 0.02
"""The mean is that of so many sets at most, and of those with this share of the likelihood."""

_FLOOR = 0.01
"""An interval's scatter about the fit that is assumed beforehand, as a share of its energy; it counts as two rows."""

_FIRST_SHARE = 0.1
"""The scatter is first taken as this share of the variance of the rows."""

_STEPS, _CLOSE = 6, 0.05
"""Steps of the fixed point of the scatter: until its variance changes by less than this share."""


@dataclass(frozen=True)
class Fit:
    """The fit under one prior, in units of the mean power.

    Attributes:
        scales: Scales of the prior.
        precision: Inverse of the prior's covariance.
        variance: Variance of a row about the fit per second of its length, in s.
        coefficients: Power of each feature, in mean powers.
        normal: Normal matrix with the blocks' own powers eliminated, in s.
        inverse: Covariance of the coefficients.
        evidence: Logarithm of the marginal likelihood.
    """

    scales: Scales
    precision: Floats
    variance: float
    coefficients: Floats
    normal: Floats
    inverse: Floats
    evidence: float

    @cached_property
    def drift_variance(self) -> float:
        """Variance of a block's own power, in squares of the mean power."""
        return self.scales.drift**2


class Evidence:
    """Fits under different priors."""

    def __init__(self, groups: Groups, prior: Prior) -> None:
        """Prepare the fits of these groups of rows."""
        self._groups = groups
        self._prior = prior
        self._normal = groups.normal.sum(axis=0)
        self._right = groups.right.sum(axis=0)
        self._precisions: dict[Scales, tuple[Floats, float]] = {}
        self._fits: dict[Scales, Fit] = {}

    def best(self, start: Scales) -> Steps[list[tuple[float, Fit]]]:
        """Return the best fits and their weights, which sum to 1, the best one first; each fit is a step.

        Args:
            start: Where the search for the scales begins.

        Raises:
            numpy.linalg.LinAlgError: There is no solution.
        """
        scales = start
        for _ in range(_SWEEPS):
            for name, values in _CHOICES.items():
                trials = [replace(scales, **{name: value}) for value in values]
                for trial in trials:
                    if trial not in self._fits:
                        fit = self._solve(trial)
                        if not isfinite(fit.evidence):
                            msg = "the sums of the rows are beyond the range of numbers"
                            raise np.linalg.LinAlgError(msg)
                        self._fits[trial] = fit
                        yield
                scales = max(trials, key=lambda each: self._fits[each].evidence)
        fits = sorted(self._fits.values(), key=lambda fit: -fit.evidence)
        weights = np.exp([fit.evidence - fits[0].evidence for fit in fits])
        kept = [(float(weight), fit) for weight, fit in zip(weights / weights.sum(), fits, strict=True)]
        kept = [(weight, fit) for weight, fit in kept[:_MOST_FITS] if weight > _LEAST_WEIGHT]
        whole = sum(weight for weight, _ in kept)
        return [(weight / whole, fit) for weight, fit in kept]

    @np.errstate(all="ignore")
    def _solve(self, scales: Scales) -> Fit:
        """Return the fit with these scales."""
        groups = self._groups
        precision, log_prior = self._precision(scales)
        # The scatter is nearly that of the fits with similar scales.
        near = [
            (sum(a != b for a, b in zip(_values(scales), _values(old), strict=True)), fit) for old, fit in self._fits.items()
        ]
        variance = min(near, key=lambda pair: pair[0])[1].variance if near else groups.squares / groups.rows * _FIRST_SHARE
        variance = max(variance, _LEAST_VARIANCE)
        floor = 2 * _FLOOR**2 * float(groups.seconds.sum()) / groups.rows
        drift = scales.drift**2
        spent = len(groups.seconds) / 2 if drift else 0.0  # the blocks' own powers take about half of their freedom
        normal, right, squares, log_drift = self._normal, self._right, groups.squares, 0.0
        for _ in range(_STEPS):
            if drift:
                shrunk = 1 / (groups.seconds + variance / drift)
                normal = self._normal - (groups.features.T * shrunk) @ groups.features
                right = self._right - groups.features.T @ (shrunk * groups.sums)
                squares = groups.squares - float(shrunk @ groups.sums**2)
                log_drift = float(np.log1p(groups.seconds * drift / variance).sum())
            inverse = np.linalg.inv(normal / variance + precision)
            coefficients = inverse @ (right / variance)
            scatter = max(0.0, squares - 2 * float(coefficients @ right) + float(coefficients @ normal @ coefficients))
            freedom = len(right) - float((inverse * precision).sum()) + spent
            before, used = variance, inverse
            variance = max((scatter + floor) / max(2.0, groups.rows - freedom + 2), _LEAST_VARIANCE)
            if abs(variance / before - 1) < _CLOSE:
                break
        log_posterior = float(np.linalg.slogdet(used)[1])
        penalty = (
            groups.rows * np.log(variance) + scatter / variance + float(coefficients @ precision @ coefficients) + log_drift
        )
        evidence = 0.5 * (log_prior + log_posterior - float(penalty))
        return Fit(scales, precision, variance, coefficients, normal, used, evidence)

    def _precision(self, scales: Scales) -> tuple[Floats, float]:
        """Return the prior's precision and the logarithm of its determinant."""
        key = replace(scales, drift=0.0)
        if key not in self._precisions:
            precision = self._prior.precision(key)
            self._precisions[key] = precision, float(np.linalg.slogdet(precision)[1])
        return self._precisions[key]


_LEAST_VARIANCE = 1e-12
"""In s: far below what marks and counters resolve."""


def _values(scales: Scales) -> tuple[float, ...]:
    return scales.early, scales.late, scales.length, scales.drift
