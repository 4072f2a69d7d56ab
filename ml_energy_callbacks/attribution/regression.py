"""Streaming weighted least squares: the mean power of each phase, with its error; pure.

Every interval between two refreshes is one equation: joules = sum over phases of watts x seconds. Weights are one over the
interval's length, so that the fit conserves energy. The intervals of a stage are stored in 16 to 32 consecutive blocks of sums,
whose scatter gives the error (cluster-robust, Liang and Zeger 1986): it is valid also if neighbouring intervals are correlated
and if powers drift. Uncertain refresh instants are errors in variables: their variance is subtracted from the normal matrix
(Fuller, Measurement Error Models, 1987, section 2.2), and if little remains after that, the phases are collinear.
Memory is constant.

Intervals, which have few buckets each, are added in plain Python; NumPy solves the equations of all buckets.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ml_energy_callbacks.attribution.student_t import quantile

_Key = TypeVar("_Key", int, tuple[int, int])
_Array = NDArray[np.floating[Any]]

_BLOCKS = 16
MIN_BLOCKS = 8
_UNRELIABLE = 0.25
"""A phase is collinear if the variance of the refresh instants is at least this share of the phase's own variation."""
_NOISE = 0.05
"""Prior estimate of an interval's scatter about the fit, as a share of its energy; weighted as two intervals."""
_LEAST_PRIOR = 1e-6
_LEAST_PIVOT = 1e-9
"""Smallest pivot of a definite matrix, as a share of the diagonal element."""
_RESOLVE = 1.05
"""The powers that divide energy are solved again when the number of equations has grown by this factor."""


def _sums() -> dict[Any, float]:
    return defaultdict(float)


@dataclass(slots=True)
class _Block:
    """Sums over consecutive intervals: weighted second moments, by pairs of buckets."""

    count: int = 0
    seconds: dict[tuple[int, int], float] = field(default_factory=_sums)
    joules: dict[int, float] = field(default_factory=_sums)
    errors: dict[int, float] = field(default_factory=_sums)

    def merge(self, other: "_Block") -> None:
        self.count += other.count
        _add_to(self.seconds, other.seconds)
        _add_to(self.joules, other.joules)
        _add_to(self.errors, other.errors)


class _Series:
    """Consecutive blocks of equally many intervals: 16 to 32 of them, once there are enough."""

    def __init__(self) -> None:
        self.blocks = [_Block()]
        self._size = 1

    def current(self) -> _Block:
        """Return the block that the next interval goes into."""
        if self.blocks[-1].count < self._size:
            return self.blocks[-1]
        if len(self.blocks) == 2 * _BLOCKS:
            for mine, other in zip(self.blocks[::2], self.blocks[1::2], strict=True):
                mine.merge(other)
            del self.blocks[1::2]
            self._size *= 2
        self.blocks.append(_Block())
        return self.blocks[-1]


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted powers of the buckets.

    Attributes:
        watts: Mean power of each bucket in W.
        half_widths: Half-width of the 95 % interval in W; None if the bucket cannot be separated from the others.
    """

    watts: dict[int, float]
    half_widths: dict[int, float | None]


class Powers(NamedTuple):
    """Best estimates of the buckets' mean powers; immutable.

    Attributes:
        watts: Power of each bucket that occurs in an interval, in W.
        mean: Power of any other bucket, in W.
    """

    watts: Mapping[int, float]
    mean: float

    def __call__(self, bucket: int) -> float:
        """Return a bucket's power in W."""
        return self.watts.get(bucket, self.mean)


class PowerFit:
    """Mean power of each bucket of one device."""

    def __init__(self) -> None:
        """Start without equations."""
        self._groups: dict[int, _Series] = {}
        self._count = 0
        self._joules = 0.0
        self._seconds = 0.0
        self._squares = 0.0
        self._solved_at = 0
        self._watts: Mapping[int, float] = {}
        self._positive: Mapping[int, float] = {}

    def add(self, seconds: Mapping[int, float], joules: float, errors: Sequence[tuple[int, float]], group: int = 0) -> None:
        """Add one interval.

        Args:
            seconds: Time of each bucket in the interval, in s; zeros left out.
            joules: Energy of the interval in J.
            errors: For each end of the interval, the bucket that ran there and the variance of its instant in s².
            group: Buckets of one group share blocks. Each stage is a group: otherwise a short stage would lie within one block
                of a long run, and a single block shows no scatter.
        """
        length = sum(seconds.values())
        block = self._groups.setdefault(group, _Series()).current()
        block.count += 1
        watts = joules / length
        for bucket, time in seconds.items():
            block.joules[bucket] += time * watts
            share = time / length
            for other, other_time in seconds.items():
                if bucket <= other:
                    block.seconds[bucket, other] += share * other_time
        for bucket, variance in errors:
            block.errors[bucket] += variance / length
        self._count += 1
        self._joules += joules
        self._seconds += length
        self._squares += joules * joules / length

    @property
    def count(self) -> int:
        """Number of intervals so far."""
        return self._count

    @property
    def _blocks(self) -> list[_Block]:
        return [block for series in self._groups.values() for block in series.blocks]

    def powers(self) -> Powers | None:
        """Return the best estimate of each bucket's mean power, shrunk towards the device's mean if there are few data.

        It is used to divide a known energy; :meth:`fit` returns the errors. None before the first interval.
        """
        if self._count == 0:
            return None
        if self._count >= _RESOLVE * self._solved_at:
            self._solved_at = self._count
            self._watts = self._solve().watts
            self._positive = {bucket: max(0.0, watts) for bucket, watts in self._watts.items()}
        return Powers(self._positive, max(0.0, self._joules / self._seconds))

    def fit(self) -> Fit:
        """Return each bucket's mean power with its error."""
        if self._count == 0:
            return Fit({}, {})
        solution = self._solve()
        buckets = solution.buckets
        half_widths: dict[int, float | None] = dict.fromkeys(buckets)
        scores = [_score(block, solution) for block in self._blocks]
        pulls = np.array([[score.get(b, 0.0) for b in buckets] for score in scores])
        squares = ((pulls @ solution.inverse) ** 2).sum(axis=0)
        for bucket, square in zip(buckets, squares.tolist(), strict=True):
            count = sum(bucket in score for score in scores)
            if bucket in solution.reliable and count >= MIN_BLOCKS:
                half_widths[bucket] = quantile(count - 1) * (count / (count - 1) * square) ** 0.5
        return Fit({b: max(0.0, w) for b, w in solution.watts.items()}, half_widths)

    def _solve(self) -> "_Solution":
        total = _Block()
        for block in self._blocks:
            total.merge(block)
        buckets = sorted(total.joules)
        mean = self._joules / self._seconds
        matrix, energies = _dense(total, buckets), np.array([total.joules[b] for b in buckets])
        prior = self._prior(matrix, energies, np.array([self._watts.get(b, mean) for b in buckets]), mean)
        matrix += prior * np.eye(len(buckets))
        inverse = _inverse(matrix)
        reliable: set[int] = set()
        if inverse is not None:
            for i, bucket in enumerate(buckets):
                if (total.errors.get(bucket, 0.0) + prior) * inverse[i, i] < _UNRELIABLE:
                    reliable.add(bucket)
                    matrix[i, i] -= total.errors.get(bucket, 0.0)
            inverse = _inverse(matrix)
        if inverse is None:
            return _Solution(buckets, dict.fromkeys(buckets, mean), np.zeros_like(matrix), set())
        watts = inverse @ (energies + prior * mean)
        return _Solution(buckets, dict(zip(buckets, watts.tolist(), strict=True)), inverse, reliable)

    def _prior(self, matrix: _Array, energies: _Array, watts: _Array, mean: float) -> float:
        """Return the weight of the prior, by which every bucket has the mean power with a standard deviation of that size.

        It is empirical Bayes: the variance of the intervals about the last solution, divided by the square of the mean power.
        """
        length = self._seconds / self._count
        scatter = float(self._squares - 2 * watts @ energies + watts @ matrix @ watts)
        scatter = max(0.0, scatter) + 2 * (_NOISE * mean) ** 2 * length
        variance = scatter / (max(0, self._count - len(watts)) + 2)
        return max(_LEAST_PRIOR * length, variance / (mean * mean) if mean else 0.0)


@dataclass(frozen=True, slots=True)
class _Solution:
    buckets: list[int]
    watts: dict[int, float]
    inverse: _Array
    reliable: set[int]


def _score(block: _Block, solution: _Solution) -> dict[int, float]:
    """Return the block's score for the power of each of its buckets: zero for a block that agrees with the solution."""
    score = dict(block.joules)
    for (a, b), seconds in block.seconds.items():
        score[a] -= seconds * solution.watts[b]
        if a != b:
            score[b] -= seconds * solution.watts[a]
    for bucket, error in block.errors.items():
        if bucket in solution.reliable and bucket in score:
            score[bucket] += error * solution.watts[bucket]
    return score


def _add_to(mine: dict[_Key, float], theirs: Mapping[_Key, float]) -> None:
    for key, value in theirs.items():
        mine[key] += value


def _dense(block: _Block, buckets: Sequence[int]) -> _Array:
    return np.array([[block.seconds.get((a, b) if a <= b else (b, a), 0.0) for b in buckets] for a in buckets])


def _inverse(matrix: _Array) -> _Array | None:
    """Return the inverse of a symmetric positive definite matrix; None if it is not (numerically) definite."""
    try:
        pivots = np.linalg.cholesky(matrix).diagonal() ** 2
    except np.linalg.LinAlgError:
        return None
    return np.linalg.inv(matrix) if np.all(pivots > _LEAST_PIVOT * matrix.diagonal()) else None
