"""The energy of a response as a law of its lengths, with intervals and its error at lengths that were held back; pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from ml_energy_callbacks.attribution.student_t import quantile
from ml_energy_callbacks.inference.generation_results import Coefficient, HeldBack, Law, terms
from ml_energy_callbacks.inference.student import interval

_Floats = NDArray[np.float64]

_COEFFICIENTS = 4


@dataclass(frozen=True, slots=True)
class Responses:
    """The measured responses of some lengths.

    Attributes:
        prompt_tokens: Length of the prompt in tokens.
        new_tokens: Number of new tokens.
        joules: Energy of a response in J by round, where it is known.
        held_back: Whether the law is to be checked with them, and not fitted to them.
    """

    prompt_tokens: int
    new_tokens: int
    joules: Mapping[int, float]
    held_back: bool = False


def fit_law(batch_size: int, measured: Sequence[Responses]) -> Law:
    """Fit the law to responses of one batch size, and compare it with those that are held back.

    Relative errors are least in the sum of squares, as noise is a share of the energy. No coefficient is below 0: of the fits
    with some of them at 0, the best one without a negative coefficient (C. Lawson and R. Hanson, Solving Least Squares
    Problems, 1974, ch. 23).

    The half-width of an interval is the larger one of two. The first is Student's t of the fits that leave out each round in
    turn (B. Efron and C. Stein, The jackknife estimate of variance, 1981): it has the noise, and drift that all lengths of a
    round share. The second is Student's t of the residuals: it also has what the law does not describe. Both are those of the
    fit without bounds. An interval ends at 0, and its upper end is at least a half-width above it, so that it holds the true
    value at least as often where that is close to 0.
    """
    law = Law(batch_size=batch_size, a=None, b=None, c=None, d=None, held_back=[], reason=None)
    known = [each for each in measured if each.joules]
    fitted = [each for each in known if not each.held_back]
    law.reason = _obstacle(fitted)
    if law.reason is not None:
        return law
    law.a, law.b, law.c, law.d = _fit(fitted)
    if law.a.high_joules is None:
        law.reason = "Some lengths have a single repeat, so that there are no intervals; raise --seconds (max_seconds)."
    law.held_back = list(_checks(law, (each for each in known if each.held_back)))
    return law


def _obstacle(fitted: Sequence[Responses]) -> str | None:
    """Return why the law cannot be fitted, in a sentence; None if it can."""
    if not fitted:
        return "No response has a known energy; raise --seconds (max_seconds) if time ran out."
    scaled = _terms(fitted) / np.max(_terms(fitted), axis=0)
    if np.linalg.matrix_rank(scaled) < _COEFFICIENTS:
        return "The measured lengths cannot separate a, b, c and d; give two prompt lengths or more, and more than 1 new token."
    if min(fmean(each.joules.values()) for each in fitted) <= 0:
        return "The energy of the shortest responses is too small to be measured; give greater lengths."
    return None


def _terms(measured: Sequence[Responses]) -> _Floats:
    return np.array([terms(each.prompt_tokens, each.new_tokens) for each in measured])


def _fit(fitted: Sequence[Responses]) -> list[Coefficient]:
    joules = np.array([fmean(each.joules.values()) for each in fitted])
    repeats = np.array([len(each.joules) for each in fitted])
    weights = np.sqrt(repeats) / joules
    rows = _terms(fitted)
    scales = rows.max(axis=0)
    rows = rows / scales * weights[:, None]
    values = _non_negative(rows, joules * weights) / scales
    operator = np.linalg.pinv(rows) * weights / scales[:, None]
    free = operator @ joules
    if repeats.min() < 2:  # noqa: PLR2004 - two repeats have a scatter
        return [Coefficient(joules=float(value), low_joules=None, high_joules=None) for value in values]
    halves = quantile(int(repeats.min()) - 1) * np.sqrt(_jackknife(operator, fitted))
    freedom = len(fitted) - _COEFFICIENTS
    if freedom:
        residuals = joules * weights - rows @ (free * scales)
        spread = np.sqrt(residuals @ residuals / freedom * np.diag(np.linalg.inv(rows.T @ rows))) / scales
        halves = np.maximum(halves, quantile(freedom) * spread)
    return [
        Coefficient(
            joules=float(value),
            low_joules=float(max(0.0, min(middle - half, value))),
            high_joules=float(max(max(middle, 0.0) + half, value)),
        )
        for value, middle, half in zip(values, free, halves, strict=True)
    ]


def _non_negative(rows: _Floats, targets: _Floats) -> _Floats:
    """Return the coefficients from 0 upwards with the least sum of squares: the best of all subsets, of which there are 16."""
    best, least = np.zeros(_COEFFICIENTS), float(targets @ targets)
    for count in range(1, _COEFFICIENTS + 1):
        for kept in combinations(range(_COEFFICIENTS), count):
            columns = list(kept)
            found = np.linalg.lstsq(rows[:, columns], targets)[0]
            residuals = targets - rows[:, columns] @ found
            if found.min() >= 0 and residuals @ residuals < least:
                best, least = np.zeros(_COEFFICIENTS), float(residuals @ residuals)
                best[columns] = found
    return best


def _jackknife(operator: _Floats, fitted: Sequence[Responses]) -> _Floats:
    """Return the variance of each coefficient, by leaving out each round in turn.

    Args:
        operator: Turns the mean energies of the lengths into the coefficients, of shape (coefficients, lengths).
        fitted: The lengths, each with two rounds or more.
    """
    rounds = sorted({number for each in fitted for number in each.joules})
    without = np.array(
        [
            operator @ [fmean(joules for number, joules in each.joules.items() if number != left_out) for each in fitted]
            for left_out in rounds
        ]
    )
    count = len(rounds)
    variances: _Floats = (count - 1) / count * ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    return variances


def _checks(law: Law, held_back: Iterable[Responses]) -> Iterator[HeldBack]:
    for each in held_back:
        found = interval(list(each.joules.values()))
        predicted = law.joules(each.prompt_tokens, each.new_tokens)
        if found is not None and predicted is not None and found.mean > 0:
            yield HeldBack(
                prompt_tokens=each.prompt_tokens,
                new_tokens=each.new_tokens,
                joules=found,
                predicted_joules=predicted,
                relative_error=predicted / found.mean - 1,
            )
