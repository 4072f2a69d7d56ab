"""The energy of each layer by least squares over steps in which some layers ran more often; pure."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_energy_callbacks.attribution.student_t import quantile

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """A block of steps.

    Attributes:
        joules: Energy of a step in J.
        repeats: How often the layers of a step were run again in it, by the layer's index; those that were not are absent.
    """

    joules: float
    repeats: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Energy in J, with the ends of its 95 % interval."""

    joules: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """The larger distance of the ends."""
        return max(self.high - self.joules, self.joules - self.low)


class Fit:
    """The energy of a step, divided into its layers and the rest.

    What a layer uses outside of its fitted parts, and the step outside of all layers, is not negative. The scatter of the
    blocks is taken to be proportional to their energy, as with blocks of equal length; it is estimated from all residuals.

    Attributes:
        fitted: Indices of the layers that some block repeats.
        known: Whether there are enough blocks; if not, there are no estimates.
        excess: By how much, in J, the layers alone certainly use more than the whole step; 0 if they do not.
    """

    def __init__(self, parents: Sequence[int | None], rows: Sequence[Row]) -> None:
        """Fit the rows.

        Args:
            parents: Index of the layer that each layer is a part of, or None; a layer comes before its parts.
            rows: The blocks.
        """
        self.fitted = sorted({i for row in rows for i in row.repeats})
        self._around = [_around(parents, i) for i in range(len(parents))]
        own = np.array([[self._runs(row, i) for i in self.fitted] + [1.0] for row in rows])
        self._freedom = len(rows) - len(self.fitted) - 1
        self.known = self._freedom > 0 and int(np.linalg.matrix_rank(own)) == own.shape[1]
        self.excess = 0.0
        if not self.known:
            return
        joules = np.array([row.joules for row in rows])
        weights = 1 / np.maximum(own @ _solve(own, joules), 1e-3 * joules)
        own, joules = own * weights[:, None], joules * weights
        self._free = _solve(own, joules)
        self._solved = _solve_from_zero(own, joules)
        scatter = float(np.sum((joules - own @ self._free) ** 2)) / self._freedom
        self._covariance = scatter * np.linalg.inv(own.T @ own)
        rest = len(self.fitted)
        above = self._free[rest] + self._half_width(_unit(rest, rest + 1))
        self.excess = max(0.0, -float(above))

    def layer(self, index: int) -> Estimate:
        """Return the energy of a fitted layer, its parts included."""
        return self._estimate([i for i in self.fitted if i == index or index in self._around[i]])

    def whole(self) -> Estimate:
        """Return the energy of a step."""
        return self._estimate(self.fitted, rest=True)

    def rest(self, without: Collection[int]) -> Estimate:
        """Return the energy of a step without that of these layers, their parts included."""
        outside = [i for i in self.fitted if i not in without and not self._around[i].intersection(without)]
        return self._estimate(outside, rest=True)

    def _runs(self, row: Row, index: int) -> float:
        """Return how often what is in a layer, but in none of its parts, ran in a step."""
        return 1.0 + row.repeats.get(index, 0) + sum(row.repeats.get(i, 0) for i in self._around[index])

    def _estimate(self, parts: Sequence[int], *, rest: bool = False) -> Estimate:
        chosen = np.array([float(i in parts) for i in self.fitted] + [float(rest)])
        free, solved = float(chosen @ self._free), float(chosen @ self._solved)
        half = self._half_width(chosen)
        return Estimate(solved, max(0.0, min(free, solved) - half), max(free, solved) + half)

    def _half_width(self, chosen: _Floats) -> float:
        return quantile(self._freedom) * math.sqrt(max(0.0, float(chosen @ self._covariance @ chosen)))


def _around(parents: Sequence[int | None], index: int) -> frozenset[int]:
    """Return the layers that a layer is a part of."""
    found, parent = set(), parents[index]
    while parent is not None:
        found.add(parent)
        parent = parents[parent]
    return frozenset(found)


def _unit(index: int, size: int) -> _Floats:
    return np.array([float(i == index) for i in range(size)])


def _solve(matrix: _Floats, values: _Floats) -> _Floats:
    return np.asarray(np.linalg.lstsq(matrix, values, rcond=None)[0], dtype=np.float64)


def _solve_from_zero(matrix: _Floats, values: _Floats) -> _Floats:
    """Return the solution without negative parts: the most negative one is set to zero until none is left."""
    solved = np.zeros(matrix.shape[1])
    kept = list(range(matrix.shape[1]))
    while kept:
        found = _solve(matrix[:, kept], values)
        least = int(np.argmin(found))
        if found[least] >= 0:
            solved[kept] = found
            break
        del kept[least]
    return solved
