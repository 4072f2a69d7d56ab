"""Features of the time in a stage on which the device's power is regressed, as integrals up to an instant; pure.

Power is not constant in a phase: it rises for 5 to 50 ms after an edge, lags behind the host, has a tail in the next phase,
and depends on the batch's length. What power does within a phase must not be mistaken for the power of another phase.
Therefore power is projected on the phases *at all delays*: on the time since a phase began, the time until it ends, its
length, and the same phase some milliseconds earlier. What remains of it is uncorrelated with the phases, whatever drives it.

The columns depend on marks alone. How much each may matter is learned from the readings (``prior``, ``evidence``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Literal

import numpy as np
import numpy.ma  # the first median would import it, which holds up the training for 10 ms

from ml_energy_callbacks.attribution.segments import Floats, Indices, Segments

AGES = (0.0, 0.002, 0.004, 0.007, 0.011, 0.016, 0.023, 0.032, 0.045, 0.064, 0.09, 0.128, 0.18, 0.256, 0.36)
"""Lower bounds of the bins of a phase's age in s, about a factor of 1.4 apart, from some times the precision of marks (0.2 ms)
to the slowest edge of power that was measured (0.3 s)."""

LEFT = (0.0, 0.002, 0.005)
"""Bounds of the bins of the time that is left of a phase in s: a GPU's work may end before the host's mark, by a few ms."""

DELAYS = (0.003, 0.007, 0.015, 0.03, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3)
"""Delays in s at which a phase may show in the power: queues of work let a GPU run up to some tenths of a second behind."""

NODES = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Nodes of the curve of power over log2(length / median): at most 8 times as long or as short; beyond, nothing changes."""

COARSE_AGES, COARSE_DELAYS = AGES[::2], DELAYS[::2]
"""The same with every second bound, for stages of three phases and more: their columns would be too many."""

_BOUNDS = AGES, COARSE_AGES, COARSE_AGES[::2], COARSE_AGES[::4]
"""Bounds of ages: a phase has the first of these for which there is room, or else a level only."""

MOST_COLUMNS = 60
"""The equations of 30 blocks then take 0.49 MB, and a report less than 20 ms. Phases that come when there is no room any more
have fewer bins, or a level only."""

FEWEST_SEGMENTS = 8
"""A phase of which fewer segments were seen has no shape yet, only a level; its 98 % quantile would be a guess."""

_QUANTILE = 0.98
"""Bins of an age that only the longest 2 % of the segments reach have too little time in them."""

_LEAST_SHARE = 0.02
"""A phase with less than this share of the time gets an age, but neither lengths nor delays: it cannot move the others."""

_LEAST_SD = 0.01
"""Lengths that vary by less than 0.7 % carry no information about power."""

_FLAT_SD = 0.05
"""Lengths are scaled to a standard deviation of 1, except where they hardly vary: the slope would otherwise be free."""

_HAT_SD, _HAT_SHARE = 0.08, 0.03
"""A curve over the length needs lengths that vary by 6 %, and 3 % of the phase's time near each of its nodes."""

Kind = Literal["level", "age", "left", "length", "hat", "before", "delay"]


@dataclass(frozen=True, slots=True)
class Column:
    """One feature: time in a phase, as far as it lies in a bin, weighted by a function of the lengths.

    Attributes:
        kind: ``level`` (all time of the phase), ``age`` and ``left`` (in a bin of the time since it began or until it ends),
            ``length``, ``hat`` and ``before`` (weighted by its own length's logarithm, by a node of a curve over it, or by the
            length of the segment before), ``delay`` (the phase's time some ms earlier, less its time now).
        phase: Number of the phase.
        low: Lower bound of the bin in s; the delay of a ``delay``; the node of a ``hat``.
        high: Upper bound of the bin in s.
        mean: What is subtracted from the weight, so that its mean over the time is 0.
        scale: What the weight is divided by.
        linked: Whether its coefficient is a neighbour of the next column's.
    """

    kind: Kind
    phase: int
    low: float = 0.0
    high: float = inf
    mean: float = 0.0
    scale: float = 1.0
    linked: bool = False


@dataclass(slots=True)
class Basis:
    """The columns of one stage; columns are only ever added, so that sums of earlier rows stay valid.

    Attributes:
        columns: The columns.
    """

    columns: list[Column] = field(default_factory=list)
    _medians: dict[int, float] = field(default_factory=dict)
    _own: set[int] = field(default_factory=set)
    """Phases that have a level or an age."""
    _count: int = 0
    """Number of all phases; a column is kept free for each of those that have not been seen."""
    _ready: "_Arrays | None" = None

    @property
    def shaped(self) -> frozenset[int]:
        """Phases that have more than a level."""
        return frozenset(self._medians)

    def add_levels(self, phases: Sequence[int]) -> None:
        """Give a level to each of these phases, unless it has a level or an age, and the delays of its edges."""
        for phase in phases:
            if phase not in self._own:
                self._own.add(phase)
                self._extend([Column("level", phase)])
                if self._medians:
                    self._add([Column("delay", phase, delay) for delay in COARSE_DELAYS])

    def add_shapes(self, seen: Segments, phases: Sequence[int]) -> None:
        """Give columns to phases that have none yet, by the segments that were seen of them, up to the limit of columns."""
        times = {phase: float(seen.lengths[seen.phases == phase].sum()) for phase in range(seen.count)}
        whole = sum(times.values())
        main = [phase for phase in phases if times[phase] >= _LEAST_SHARE * whole]
        coarse = len({*main, *self._medians}) > 2  # noqa: PLR2004 - compute and waiting
        for phase in phases:
            self._medians[phase] = float(np.median(seen.lengths[seen.phases == phase]))
        self._count = seen.count
        for phase in phases:
            fits = (self._add(_ages(seen, phase, bounds)) for bounds in _BOUNDS[bool(coarse or phase not in main) :])
            if not any(fits):
                self.add_levels([phase])
            self._own.add(phase)
        longest = max(times, key=times.__getitem__)
        delayed = {column.phase for column in self.columns if column.kind == "delay"}
        for phase in main:
            if phase != longest and phase not in delayed:  # the delayed times of all phases add up to the time
                self._add([Column("delay", phase, delay) for delay in (COARSE_DELAYS if coarse else DELAYS)])
        sizes = self._sizes(seen)
        for phase in main:
            self._add(_lengths(seen, phase, sizes))
        if not coarse:
            for phase in main:
                self._add(_hats(seen, phase, sizes))

    def _add(self, columns: Sequence[Column]) -> bool:
        """Add columns if there is room for them, and for a level of each other phase; return whether there was."""
        others = self._count - len(self._own.union(column.phase for column in columns))
        fits = len(self.columns) + len(columns) + max(0, others) <= MOST_COLUMNS
        if fits:
            self._extend(columns)
        return fits

    def _extend(self, columns: Sequence[Column]) -> None:
        self.columns += columns
        self._ready = None

    def _sizes(self, these: Segments) -> Floats:
        """Return log2(length / median of the phase) of each segment, 0 where the phase has no shape."""
        medians = np.array([self._medians.get(phase, 0.0) for phase in range(these.count)])[these.phases]
        ratios = np.divide(these.lengths, medians, out=np.ones_like(medians), where=medians > 0)
        sizes: Floats = np.log2(ratios.clip(2.0 ** NODES[0], 2.0 ** NODES[-1]))
        return sizes

    def integrals(self, these: Segments, instants: Floats) -> Floats:
        """Return the integral of each feature (columns) up to each instant (rows), in s, from an arbitrary zero.

        Args:
            these: Segments from at least the longest delay before the first instant on.
            instants: In s.
        """
        arrays = self._arrays()
        factors = self._factors(these, arrays)
        lengths = these.lengths[:, None]
        base = np.zeros((len(lengths) + 1, len(arrays.low)))
        np.cumsum((lengths - arrays.low).clip(0, arrays.width) * factors, axis=0, out=base[1:])
        place = these.place(instants)
        age = (instants - these.edges[place]).clip(0, these.lengths[place])[:, None]
        part = (age - arrays.low).clip(0, arrays.width)
        if arrays.left.any():
            whole, low, width = lengths[place], arrays.low[arrays.left], arrays.width[arrays.left]
            part[:, arrays.left] = (whole - low).clip(0, width) - (whole - age - low).clip(0, width)
        result = np.empty((len(instants), len(self.columns)))
        result[:, arrays.own] = base[place] + part * factors[place]
        for phase, delays, columns in arrays.delays:
            so_far = these.cumulative(phase)
            early = np.interp(instants[:, None] - delays, these.edges, so_far)
            result[:, columns] = early - np.interp(instants, these.edges, so_far)[:, None]
        return result

    def length_watts(self, phase: int, length: float, coefficients: Floats) -> float:
        """Return by how much the power of a phase may change with its length, which is at least ``length`` (s) so far.

        Args:
            phase: The phase.
            length: How long it has lasted.
            coefficients: Of the first columns, in W.
        """
        median = self._medians.get(phase)
        if median is None:
            return 0.0
        least = float(np.log2(length / median).clip(NODES[0], NODES[-1]))
        sizes = np.array([least, *(node for node in NODES if node > least)])
        watts = np.zeros(len(sizes))
        for column, coefficient in zip(self.columns, coefficients, strict=False):
            if column.phase == phase and column.kind in {"length", "hat"}:
                watts += coefficient * _weight(column, sizes) / column.scale
        return float(np.abs(watts - watts[0]).max())

    def _factors(self, these: Segments, arrays: "_Arrays") -> Floats:
        """Return the weight of each segment (rows) in each column that is no delay."""
        factors: Floats = (these.phases[:, None] == arrays.phase).astype(np.float64)
        if len(arrays.weighted):
            sizes = self._sizes(these)
            before = np.concatenate([np.zeros(1), sizes[:-1]])
            for place, column in arrays.weighted:
                weight = _weight(column, before if column.kind == "before" else sizes)
                factors[:, place] *= (weight - column.mean) / column.scale
        return factors

    def _arrays(self) -> "_Arrays":
        if self._ready is None:
            self._ready = _Arrays(self.columns)
        return self._ready


class _Arrays:
    """The bounds of the columns as arrays."""

    def __init__(self, columns: Sequence[Column]) -> None:
        own = [i for i, column in enumerate(columns) if column.kind != "delay"]
        chosen = [columns[i] for i in own]
        weighted = {"length", "hat", "before"}
        self.own: Indices = np.array(own, dtype=np.intp)
        self.low = np.array([0.0 if column.kind in weighted else column.low for column in chosen])
        self.width = np.array([inf if column.kind in weighted else column.high - column.low for column in chosen])
        # The level of a phase that has got an age is no longer used.
        aged = {column.phase for column in chosen if column.kind == "age"}
        replaced = [column.kind == "level" and column.phase in aged for column in chosen]
        self.phase = np.array([-1 if old else column.phase for column, old in zip(chosen, replaced, strict=True)])
        self.left = np.array([column.kind == "left" for column in chosen], dtype=bool)
        self.weighted = [(i, column) for i, column in enumerate(chosen) if column.kind in weighted]
        delayed = [(i, column) for i, column in enumerate(columns) if column.kind == "delay"]
        self.delays = [
            (
                phase,
                np.array([column.low for _, column in delayed if column.phase == phase]),
                np.array([i for i, column in delayed if column.phase == phase]),
            )
            for phase in dict.fromkeys(column.phase for _, column in delayed)
        ]


def _ages(seen: Segments, phase: int, bounds: Sequence[float]) -> list[Column]:
    """Return the columns of a phase's age and of the time left of it."""
    longest = float(np.quantile(seen.lengths[seen.phases == phase], _QUANTILE))
    low = [bound for bound in bounds if bound < longest] or [0.0]
    high = [*low[1:], inf]
    last = len(low) - 1
    ages = [Column("age", phase, a, b, linked=i < last) for i, (a, b) in enumerate(zip(low, high, strict=True))]
    left = [bound for bound in LEFT if bound < longest / 2]
    pairs = list(pairwise(left))
    return ages + [Column("left", phase, a, b, linked=i < len(pairs) - 1) for i, (a, b) in enumerate(pairs)]


def _lengths(seen: Segments, phase: int, sizes: Floats) -> list[Column]:
    """Return the columns of a phase's own length and of that of the segment before it."""
    before = np.concatenate([np.zeros(1), sizes[:-1]])
    columns = [_centred(Column("length", phase), seen, sizes), _centred(Column("before", phase), seen, before)]
    return [column for column in columns if column is not None]


def _hats(seen: Segments, phase: int, sizes: Floats) -> list[Column]:
    """Return the columns of the curve of power over a phase's length."""
    mine = seen.phases == phase
    if float(sizes[mine].std()) <= _HAT_SD:
        return []
    time = float(seen.lengths[mine].sum())
    nodes = [Column("hat", phase, node) for node in NODES[1:-1] if node]
    near = [(c, float((_weight(c, sizes)[mine] * seen.lengths[mine]).sum())) for c in nodes]
    found = [_centred(column, seen, sizes) for column, share in near if share > _HAT_SHARE * time]
    return [column for column in found if column is not None]


def _centred(column: Column, seen: Segments, sizes: Floats) -> Column | None:
    """Return a column with the mean and scale of its weight over the phase's time; None if the weight does not vary."""
    mine = seen.phases == column.phase
    weight, lengths = _weight(column, sizes)[mine], seen.lengths[mine]
    mean = float(np.average(weight, weights=lengths))
    deviation = float(np.average((weight - mean) ** 2, weights=lengths)) ** 0.5
    if deviation < _LEAST_SD:
        return None
    scale = 1.0 if column.kind == "hat" else max(deviation, _FLAT_SD)
    return Column(column.kind, column.phase, column.low, mean=mean, scale=scale)


def _weight(column: Column, sizes: Floats) -> Floats:
    if column.kind != "hat":
        return sizes
    i = NODES.index(column.low)
    below, node, above = NODES[i - 1 : i + 2]
    return np.minimum((sizes - below) / (node - below), (above - sizes) / (above - node)).clip(0, 1)
