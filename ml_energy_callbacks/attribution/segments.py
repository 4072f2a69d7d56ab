"""A stretch of a timeline as arrays: which phase ran when; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_energy_callbacks.clock import NS_PER_S

OUTSIDE_STAGE = 0
"""Number of the time outside the stage."""

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Segments:
    """Consecutive segments of time, in each of which one phase ran.

    Attributes:
        edges: The instants between them in s: segment ``i`` lasts from ``edges[i]`` to ``edges[i + 1]``.
        phases: Phase of each, by its number in the stage, from 1 on; 0 is the time outside the stage.
        lengths: Length of each in s, above 0.
        count: Number of phases, including the time outside the stage.
    """

    edges: Floats
    phases: Indices
    lengths: Floats
    count: int

    def place(self, instants: Floats) -> Indices:
        """Return the segment in which each instant (s) lies; the first or the last one for those before or after all."""
        found: Indices = np.searchsorted(self.edges, instants, "right") - 1
        return found.clip(0, len(self.phases) - 1)

    def cumulative(self, phase: int) -> Floats:
        """Return the time of a phase in s up to each edge."""
        return np.append(0.0, np.cumsum(np.where(self.phases == phase, self.lengths, 0.0)))

    def times(self, instants: Floats) -> Floats:
        """Return the time of each phase in s (columns) up to each instant (rows)."""
        return np.stack([np.interp(instants, self.edges, self.cumulative(phase)) for phase in range(self.count)], axis=-1)


def segments(switches: Sequence[tuple[int, int]], end_ns: int, numbers: Mapping[int, int], origin_ns: int) -> Segments | None:
    """Return the segments of a timeline since the origin; None if there is none.

    What was before the device's first knot is left out: a meter may have been made long before it is started.

    Args:
        switches: Clock in ns and the bucket that began, oldest first.
        end_ns: Where the last segment ends.
        numbers: Number of each of the stage's buckets, from 1 on.
        origin_ns: Zero of the instants, the clock at the device's first knot.
    """
    if not switches:
        return None
    clocks: NDArray[Any] = np.array([clock for clock, _ in switches] + [max(end_ns, switches[-1][0])], dtype=np.int64)
    edges = (clocks - origin_ns).clip(0) / NS_PER_S
    phases: Indices = np.array([numbers.get(bucket, OUTSIDE_STAGE) for _, bucket in switches], dtype=np.intp)
    kept = np.diff(edges) > 0
    if not kept.any():
        return None
    edges, phases = np.append(edges[:-1][kept], edges[-1]), phases[kept]
    # What goes on outside the stage is one segment.
    begins = np.append(True, (phases[1:] != OUTSIDE_STAGE) | (phases[:-1] != OUTSIDE_STAGE))
    edges = np.append(edges[:-1][begins], edges[-1])
    return Segments(edges, phases[begins], np.diff(edges), len(numbers) + 1)
