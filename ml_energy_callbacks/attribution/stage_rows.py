"""Knots of a device + segments of a stage -> rows of a regression, in constant memory; pure."""

from collections.abc import Set as AbstractSet

import numpy as np

from ml_energy_callbacks.attribution.equations import Equations
from ml_energy_callbacks.attribution.features import FEWEST_SEGMENTS, Basis
from ml_energy_callbacks.attribution.phase_energy import StageProblem, Targets
from ml_energy_callbacks.attribution.prior import Scales
from ml_energy_callbacks.attribution.segments import OUTSIDE_STAGE, Bools, Floats, Indices, Segments

_SMOOTH_S = 0.0001
"""Instants that are more certain than this are taken as they are: marks are no better."""

_QUARTERS = 3**0.5 * np.array([-0.75, -0.25, 0.25, 0.75])
"""Four instants that stand for a uniform error, in standard deviations."""

_RAGGED_S = 0.001
"""With less certain instants, the errors of neighbouring rows are correlated, and rows are filtered."""

_ROW_NOISE = 0.05
"""Scatter of a row by power itself against which that of the instants is weighed, as a share of its length."""

_NO_TIME_S = 1e-9
"""Less than a clock resolves."""

_RENEWAL_S = 0.0015
"""Standard deviation of the instants at which a reading of power is renewed: polls find them to some milliseconds."""

_UNDATED_S = 0.004
"""A reading whose renewal is less certain (a standard deviation of more than these seconds) is left out: it is one of several
between two polls, and the mean over a window that may have ended some milliseconds earlier or later says nothing about phases
that are not much longer."""

_INSTANT_S = 0.001
"""Window of a power that is true at an instant: shorter ones differ less than the instants are known."""

_MOST_SEGMENTS = 128
"""An interval with more segments says nothing about phases that short, and costs too much."""


class StageRows:
    """Sums from which the phases of a stage of one device are told apart.

    Features are averaged over the uncertainty of a knot's instant: the instant that is written down is known and the true one
    scatters about it, so the error is of Berkson's kind, and averaging removes it (R. Carroll et al., Measurement Error in
    Nonlinear Models, 2006, chapter 1.4).

    Attributes:
        basis: The columns.
        equations: The normal equations.
        targets: The sums that are asked for.
        scales: Scales of the prior that fitted best last time.
    """

    def __init__(self, phases: int) -> None:
        """Start without rows of a stage of this many phases, with the numbers from 1 on."""
        self.basis = Basis()
        self.equations = Equations()
        self.targets = Targets.none(phases)
        self._before: Floats | None = None
        self.scales = Scales()

    def add_phase(self, within: int) -> None:
        """Add a phase that has not run yet, with the next number, which is counted with an earlier one."""
        self.targets = self.targets.with_phase(within)

    def has_shapes(self, phases: AbstractSet[int]) -> bool:
        """Return whether these phases need no columns any more."""
        return phases <= self.basis.shaped

    def shape(self, seen: Segments) -> bool:
        """Choose the columns of phases of which enough was seen, at first of all of them at once; return whether any were."""
        counts = np.bincount(seen.phases, minlength=seen.count)
        every = [*range(1, seen.count), OUTSIDE_STAGE]
        new = [p for p in every if counts[p] >= FEWEST_SEGMENTS and p not in self.basis.shaped]
        if new:
            self.basis.add_shapes(seen, new)
        return bool(new)

    def add(self, instants: Floats, sigmas: Floats, joules: Floats, these: Segments, window_s: float | None = None) -> None:
        """Add the rows between consecutive knots of one chain.

        Rows in which the stage began or ended are left out, unless it does so all the time: a single one, at the power of
        another stage, would move the fit.

        Args:
            instants: The knots in s.
            sigmas: Standard deviations of these instants in s.
            joules: Cumulative energy at the knots in J.
            these: Segments around them, from at least the longest delay (and a window) before the first one on.
            window_s: Where what is between two knots is a reading of power that was renewed at the second of them: it is the
                mean over a window of this length (s) up to there. None where it is the energy between them.
        """
        begins, ends = instants[:-1], instants[1:]
        if window_s is not None:
            window_s = max(window_s, _INSTANT_S)
            begins = np.minimum(begins, ends - window_s)
        apart = these.cumulative(OUTSIDE_STAGE)
        outside = np.interp(ends, these.edges, apart) - np.interp(begins, these.edges, apart)
        usable = (ends - begins - outside > _NO_TIME_S) & ((outside < _NO_TIME_S) | (OUTSIDE_STAGE in self.basis.shaped))
        usable &= (window_s is None) | ((begins >= these.edges[0]) & (sigmas[1:] <= _UNDATED_S))
        usable &= np.searchsorted(these.edges, ends) - np.searchsorted(these.edges, begins, "right") <= _MOST_SEGMENTS
        for begin, end in _stretches(usable):
            if begin:
                self.break_chain()
            some = slice(begin, end + 1)
            self._add_stretch(instants[some], sigmas[some], joules[some], these, window_s)
        if not usable[-1]:
            self.break_chain()

    def _add_stretch(self, instants: Floats, sigmas: Floats, joules: Floats, these: Segments, window_s: float | None) -> None:
        """Add the rows between consecutive knots, all of which are in the stage."""
        edges = these.edges[(these.edges > instants[0]) & (these.edges < instants[-1])]
        inside = np.searchsorted(instants, edges, "right") - 1
        points = np.concatenate([instants[:1], edges, instants[-1:]])
        owners = these.phases[these.place((points[:-1] + points[1:]) / 2)]
        self.basis.add_levels(np.unique(owners).tolist())
        bounds = instants
        if window_s is not None:
            bounds, sigmas = np.stack([instants[1:] - window_s, instants[1:]]), np.maximum(sigmas[1:], _RENEWAL_S)
        uncertain = float(sigmas.max()) > _SMOOTH_S
        spread = bounds[..., None] + sigmas[:, None] * _QUARTERS if uncertain else bounds[..., None]
        every = spread.ravel()
        integrals, times = self.basis.integrals(these, np.concatenate([points, every])), these.times(every)
        pieces = np.diff(integrals[: len(points)], axis=0)
        smooth, times = (each.reshape(*spread.shape, -1).mean(axis=-2) for each in (integrals[len(points) :], times))
        lengths, energy = np.diff(instants), np.diff(joules)
        self._add_edges(these, edges, inside, lengths)
        if window_s is None:
            features, seconds = np.diff(smooth, axis=0), np.diff(times, axis=0)
            shares = seconds / seconds.sum(axis=1, keepdims=True)
            self._add_targets(pieces, np.diff(points), owners, features, shares, lengths, energy)
            self._add_rows(features, energy, lengths, sigmas)
            return
        # Nothing counts exactly: readings see a part of the time only, and of the rest the fit alone says what was used.
        features, nothing = smooth[1] - smooth[0], np.zeros((len(lengths), these.count))
        seen = np.full(len(lengths), window_s)
        energy *= seen / lengths
        before = self.targets.seconds.copy()
        self._add_targets(pieces, np.diff(points), owners, features, nothing, seen, energy)
        self.targets.mixed += max(0.0, 1 - window_s / float(lengths.mean())) * (self.targets.seconds - before)
        self._add_rows(features, energy, seen, np.zeros(len(seen)))

    def _add_targets(
        self,
        pieces: Floats,
        piece_lengths: Floats,
        owners: Indices,
        features: Floats,
        shares: Floats,
        lengths: Floats,
        energy: Floats,
    ) -> None:
        targets = self.targets
        own = np.minimum(shares @ targets.members.T, 1.0)  # a sum of all shares may be a little more by rounding
        more = len(self.basis.columns) - targets.features.shape[1]
        if more:
            targets.features = np.pad(targets.features, ((0, 0), (0, more)))
        chosen = targets.members[:, owners]
        targets.features += chosen @ pieces - own.T @ features
        targets.seconds += chosen @ piece_lengths
        targets.joules += energy @ own
        targets.early += lengths @ own
        mixed = lengths[:, None] * own * (1 - own)
        targets.mixed += mixed.sum(axis=0)
        plain = [phase for phase in range(shares.shape[1]) if phase not in self.basis.shaped]
        targets.unshaped += mixed[(shares[:, plain] > 0).any(axis=1)].sum(axis=0)

    def _add_edges(self, these: Segments, edges: Floats, inside: Indices, lengths: Floats) -> None:
        """Count the edges that a late or early mark may have moved."""
        after = these.place(edges)
        before = (after - 1).clip(0)
        pairs = these.phases[before], these.phases[after]
        np.add.at(self.targets.edges, pairs, 1.0)
        np.add.at(self.targets.edge_weights, pairs, 1 / lengths[inside])

    def _add_rows(self, features: Floats, energy: Floats, lengths: Floats, sigmas: Floats) -> None:
        theta = _correlation(float(np.median(sigmas)), float(lengths.mean()))
        if not theta:
            self._before = None
            self.equations.add(features, energy, lengths, lengths)
            return
        filtered = np.column_stack([features, energy, lengths])
        last = np.zeros(filtered.shape[1]) if self._before is None else self._before
        last = np.concatenate([np.pad(last[:-2], (0, features.shape[1] - len(last) + 2)), last[-2:]])
        for i in range(len(filtered)):
            filtered[i] += theta * last
            last = filtered[i]
        self._before = last.copy()
        self.equations.add(filtered[:, :-2], filtered[:, -2], filtered[:, -1], lengths)

    def break_chain(self) -> None:
        """Begin a new chain of knots: rows after a gap have no neighbour before it."""
        self._before = None

    def problem(self) -> StageProblem | None:
        """Return the problem to be solved for the energy of each phase in the time of the rows so far; None with too few."""
        return StageProblem.of(self.basis.columns, self.equations.blocks, self.targets, self.scales)


def reach_s(sigma: float, window_s: float | None) -> float:
    """Return how far after a knot that is uncertain by ``sigma`` (s) its features look, in s; see :meth:`StageRows.add`."""
    return float(_QUARTERS[-1]) * (sigma if window_s is None else max(sigma, _RENEWAL_S))


def _stretches(usable: Bools) -> list[tuple[int, int]]:
    """Return where consecutive usable rows begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], usable, [False]]).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _correlation(sigma: float, length: float) -> float:
    """Return the filter of rows whose neighbours share an instant that is uncertain by ``sigma`` (s)."""
    if sigma <= _RAGGED_S:
        return 0.0
    shared = sigma**2
    correlation = shared / ((_ROW_NOISE * length) ** 2 + 2 * shared)
    return float((1 - (1 - 4 * correlation**2) ** 0.5) / (2 * correlation))
