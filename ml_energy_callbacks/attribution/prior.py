"""How far power may depart from its mean, before the readings are seen; pure.

Coefficients are in units of the device's mean power. Each is normal about 0, or about its neighbour: power changes gradually
with the age of a phase. How widely is a question for the readings: ``evidence`` chooses the scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ml_energy_callbacks.attribution.features import Column
from ml_energy_callbacks.attribution.segments import Floats

LEVEL_SD = 8**0.5 * 3
"""Standard deviation of a phase's level, in mean powers: in effect free, as idle and busy power differ by a factor of 10."""

_EARLY_S = 0.02
"""Edges of power are mostly over by then: what changes later changes less from bin to bin."""

EARLY = (0.02, 0.06, 0.2, 0.6, 1.5)
"""Scales of what power does within 20 ms of an edge, in mean powers, from nothing to a full swing."""

LATE = (0.01, 0.03, 0.1, 0.3)
"""Scales of what it does later."""

LENGTH = (0.02, 0.06, 0.2)
"""Scales of how it follows the lengths of phases."""

DRIFT = (0.0, 0.02, 0.1)
"""Scales of its mean's changes from one block of time to another, as by heat, a power cap or another tenant."""


@dataclass(frozen=True, slots=True)
class Scales:
    """Standard deviations, in mean powers.

    Attributes:
        early: Of what power does within 20 ms of an edge.
        late: Of what it does later.
        length: Of how it follows lengths.
        drift: Of the mean power of a block of time.
    """

    early: float = 0.2
    late: float = 0.03
    length: float = 0.06
    drift: float = 0.02


class Prior:
    """The prior's precision as a function of the scales."""

    def __init__(self, columns: Sequence[Column]) -> None:
        """Prepare the precision of these columns."""
        size = len(columns)
        self._free = np.zeros((size, size))
        self._early, self._late, self._length = (np.zeros((size, size)) for _ in range(3))
        for i, (column, after) in enumerate(pairwise([*columns, None])):
            if column is None:  # pragma: no cover - pairwise: only the second can be None
                continue
            if column.kind in {"age", "level"}:
                self._free[i, i] += 1 / LEVEL_SD**2
                if column.linked and after is not None:
                    _link(self._early if after.low < _EARLY_S else self._late, i, i + 1)
            elif column.kind == "left":
                _link(self._early, i, i + 1 if column.linked else None)
            elif column.kind == "delay":
                _link(self._early if column.low < _EARLY_S else self._late, i, None)
            else:
                _link(self._length, i, None)

    def precision(self, scales: Scales) -> Floats:
        """Return the inverse of the coefficients' covariance."""
        return self._free + self._early / scales.early**2 + self._late / scales.late**2 + self._length / scales.length**2


def _link(matrix: Floats, i: int, j: int | None) -> None:
    """Add the precision of the difference of two coefficients, or of one from 0."""
    matrix[i, i] += 1
    if j is not None:
        matrix[j, j] += 1
        matrix[i, j] -= 1
        matrix[j, i] -= 1
