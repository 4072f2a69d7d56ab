"""The energy of each phase of a stage with its interval, from sums and a fit; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from ml_energy_callbacks.attribution.equations import Block, Groups
from ml_energy_callbacks.attribution.evidence import Evidence, Fit
from ml_energy_callbacks.attribution.features import Column
from ml_energy_callbacks.attribution.jackknife import jackknife
from ml_energy_callbacks.attribution.prior import Prior, Scales
from ml_energy_callbacks.attribution.segments import Floats
from ml_energy_callbacks.attribution.steps import Steps, at_once

FEWEST_ROWS = 16
"""Intervals between refreshes from which phases are told apart; fewer say nothing about their own scatter."""

_BLOCKS, _BLOCK_ROWS, _FEWEST_BLOCKS = 16, 6, 4
"""Blocks of the jackknife: 16, each of 6 rows at least, but not fewer than 4."""

COVER = 2.6
"""Standard errors of the half-width. Student's t of 15 degrees of freedom has 2.1; more, because the scales and columns were
chosen by the same data. With it, 99 % of the intervals of the simulated worlds in the tests hold."""

_LEAST_S = 1e-9
"""Less than a clock resolves."""

_LEAST_WATTS, _MOST_WATTS = 1e-9, 1e9
"""Less and more than any device draws; the squares of other powers may be beyond the range of numbers."""

_MARK_S = 0.0002
"""Marks are good to this: the host stamps them before or after its calls, and a GPU's own edges are as far off."""


@dataclass(frozen=True, slots=True)
class Model:
    """Fitted power over the features.

    Attributes:
        mean: Mean power in W.
        coefficients: Of the features, in W beside the mean.
        covariance: Of the coefficients, in W²: with what the scales of the prior leave open, and as much more than the
            posterior as for the phases.
        variance: Of an interval's energy about the fit, in J² per s.
        scales: Scales of the prior that fitted best.
    """

    mean: float
    coefficients: Floats
    covariance: Floats
    variance: float
    scales: Scales


class Target(NamedTuple):
    """What was found of a phase, or of several of them together.

    Attributes:
        joules: Energy in the time that is covered by rows, in J.
        half_width: Half-width of its 95 % interval in J, without the latency of the device.
        seconds: The time that is covered, in s.
        watts: Mean power in W.
        per_delay: Energy in J that a delay of the readings moves into or out of it at most, for each second of it.
    """

    joules: float
    half_width: float
    seconds: float
    watts: float
    per_delay: float


@dataclass(frozen=True, slots=True)
class PhaseEnergies:
    """Energies of the phases of a stage, in the time that is covered by rows.

    Attributes:
        joules: Of each target, which is a phase or several of them together, in J.
        half_widths: Half-widths of their 95 % intervals, in J, without the latency of the device.
        seconds: Time of each target that is covered, in s.
        members: Whether a phase (column, by its number) belongs to a target (row): 1 or 0.
        edges: Number of edges from a phase (row, by its number) to another one (column) in that time.
        model: The fitted power.
    """

    joules: Floats
    half_widths: Floats
    seconds: Floats
    members: Floats
    edges: Floats
    model: Model

    @property
    def watts(self) -> Floats:
        """Mean power of each target in W; the stage's mean power where one has no time."""
        result: Floats = np.divide(
            self.joules, self.seconds, out=np.full_like(self.joules, self.model.mean), where=self.seconds > 0
        )
        return result

    @property
    def largest_step(self) -> float:
        """Largest difference between the mean powers of two targets, in W."""
        watts = self.watts[self.seconds > 0]
        return float(watts.max() - watts.min()) if len(watts) else 0.0

    @property
    def per_delay(self) -> Floats:
        """Energy in J that a delay of the readings moves into or out of each target at most, for each second of it.

        A delay moves what ran before a stretch of it into it, and what ran at the end of the stretch out of it.
        """
        watts = np.full(self.members.shape[1], self.model.mean)
        for target in np.flatnonzero(self.members.sum(axis=1) == 1):
            watts[self.members[target] > 0] = self.watts[target]
        entries = self.members @ self.edges.T * (1 - self.members)
        exits = self.members * ((1 - self.members) @ self.edges.T)
        left = np.where(exits.any(axis=1, keepdims=True), exits, self.members)
        last = left @ watts / left.sum(axis=1)
        result: Floats = (entries * np.abs(watts - last[:, None])).sum(axis=1)
        return result

    def at(self, targets: Sequence[int | None]) -> "list[Target]":
        """Return what was found of targets, by their rows; nothing of one that is None, or was added after the fit."""
        columns = self.joules, self.half_widths, self.seconds, self.watts, self.per_delay
        found = [Target(*map(float, each)) for each in zip(*columns, strict=True)]
        nothing = Target(0.0, 0.0, 0.0, self.model.mean, 0.0)
        return [nothing if row is None or row >= len(found) else found[row] for row in targets]

    def contradicts(self, other: "PhaseEnergies", latency_s: float) -> bool:
        """Return whether another fit of the same stage gives a phase another share of the energy, beyond both intervals.

        Args:
            other: The fit of other readings of the same device, which may show a few percent more or less power in all phases.
            latency_s: How far either's readings may be behind the host's clock, in s.
        """
        known = min(len(self.seconds), len(other.seconds))  # a phase may have begun after one of the fits
        both = np.flatnonzero((self.seconds[:known] > 0) & (other.seconds[:known] > 0))
        scale = self.model.mean / other.model.mean
        mine, yours = self.watts[both], other.watts[both] * scale
        halves = self._half_watts(latency_s)[both] + scale * other._half_watts(latency_s)[both]  # noqa: SLF001 - its own class
        return bool((np.abs(mine - yours) > halves + abs(scale - 1) * yours).any())

    def _half_watts(self, latency_s: float) -> Floats:
        halves: Floats = (self.half_widths + latency_s * self.per_delay) / np.maximum(self.seconds, _LEAST_S)
        return halves


@dataclass(slots=True)
class Targets:
    """Sums over rows from which energies follow, given the coefficients: of each phase, and of some of them together.

    The target of a phase is in the row of its number less 1, as long as no phases are counted together.

    Attributes:
        members: Whether a phase (column, by its number; 0 is the time outside the stage) belongs to a target (row): 1 or 0.
        features: For each target (rows), its features beyond its shares of the intervals, in s.
        joules: For each target, its share of the intervals' energy by time, in J.
        early: For each target, its time by smoothed instants, in s.
        seconds: For each target, its exact time in s.
        mixed: For each target, sum of length x share x (1 - share), in s.
        unshaped: The part of it in intervals in which a phase without a shape ran, in s.
        edges: Number of edges from a phase (row, by its number) to another one (column).
        edge_weights: Sum of 1 / length over the intervals in which these edges lie, in 1/s.
    """

    members: Floats
    features: Floats
    joules: Floats
    early: Floats
    seconds: Floats
    mixed: Floats
    unshaped: Floats
    edges: Floats
    edge_weights: Floats

    @classmethod
    def none(cls, phases: int) -> "Targets":
        """Return zeros for this number of phases beside the time outside the stage."""
        pairs = phases + 1, phases + 1
        members = np.eye(phases, phases + 1, 1)
        joules, early, seconds, mixed, unshaped = np.zeros((5, phases))
        return cls(members, np.zeros((phases, 0)), joules, early, seconds, mixed, unshaped, np.zeros(pairs), np.zeros(pairs))

    def alone(self, phase: int) -> int:
        """Return the row of a phase's own target, by its number."""
        return int(np.flatnonzero((self.members[:, phase] > 0) & (self.members.sum(axis=1) == 1))[0])

    def together(self, phase: int) -> int:
        """Return the row of the target of all phases that are counted with this one: its own where there are none."""
        return int((self.members[:, phase] * self.members.sum(axis=1)).argmax())

    def with_phase(self, within: int) -> "Targets":
        """Return them with one more phase, by the next number, which is counted together with an earlier one."""
        count, together = self.members.shape[1], self.together(within)
        # So far, both together are the earlier one.
        rows = [*range(len(self.members)), *([together] if self.members[together].sum() == 1 else [])]
        members = np.pad(self.members[rows], ((0, 1), (0, 1)))
        members[-1, count] = 1.0
        members[together if len(rows) == len(self.members) else len(rows) - 1, count] = 1.0
        sums = (np.append(each[rows], 0.0) for each in (self.joules, self.early, self.seconds, self.mixed, self.unshaped))
        edges = (np.pad(each, ((0, 1), (0, 1))) for each in (self.edges, self.edge_weights))
        return Targets(members, np.pad(self.features[rows], ((0, 1), (0, 0))), *sums, *edges)

    def copy(self, columns: int) -> "Targets":
        """Return a copy with this many columns."""
        more = columns - self.features.shape[1]
        return Targets(
            self.members,
            np.pad(self.features, ((0, 0), (0, more))),
            self.joules.copy(),
            self.early.copy(),
            self.seconds.copy(),
            self.mixed.copy(),
            self.unshaped.copy(),
            self.edges.copy(),
            self.edge_weights.copy(),
        )


@dataclass(frozen=True, slots=True)
class StageProblem:
    """What has to be solved for the energies of a stage's phases; a copy, apart from the sums that grow.

    Attributes:
        rows: Number of rows.
        mean: Mean power in W.
        blocks: The rows.
        columns: Their columns.
        targets: What is asked for.
        start: Scales from which the search begins.
    """

    rows: int
    mean: float
    blocks: Sequence[Block]
    columns: Sequence[Column]
    targets: Targets
    start: Scales

    @classmethod
    def of(cls, columns: Sequence[Column], blocks: Sequence[Block], targets: Targets, start: Scales) -> Self | None:
        """Return the problem as it stands; None with too few rows, or with a power that no device has, such as 0."""
        rows = sum(block.rows for block in blocks)
        joules, lengths = (float(sum(block.sums[i] for block in blocks)) for i in (0, 1))
        if rows < FEWEST_ROWS or lengths <= 0 or not _LEAST_WATTS < joules / lengths < _MOST_WATTS:
            return None
        return cls(rows, joules / lengths, tuple(blocks), tuple(columns), targets.copy(len(columns)), start)

    def solve(self) -> PhaseEnergies | None:
        """Return the energy of each phase; None where rounding leaves no solution."""
        return at_once(self.steps())

    def steps(self) -> Steps[PhaseEnergies | None]:
        """Solve it in steps of some milliseconds together, each of one or two."""
        try:
            energies = yield from self._solve()
        except np.linalg.LinAlgError:
            return None
        return energies if np.isfinite(energies.half_widths).all() else None

    def _solve(self) -> Steps[PhaseEnergies]:
        targets, mean = self.targets, self.mean
        count = min(_BLOCKS, max(_FEWEST_BLOCKS, self.rows // _BLOCK_ROWS))
        groups = Groups.of(self.blocks, len(self.columns), count, mean)
        yield
        fits = yield from Evidence(groups, Prior(self.columns)).best(self.start)
        wanted = targets.features
        blur = _blur(self.columns, targets.edge_weights)
        fixed = targets.joules / mean + targets.seconds - targets.early
        weights = np.array([weight for weight, _ in fits])
        energies = np.stack([fixed + wanted @ fit.coefficients for _, fit in fits])
        spreads, ratios = [], []
        for _, fit in fits:
            spread, ratio = yield from _spread(groups, fit, wanted)
            spreads.append(spread + fit.variance * targets.mixed)
            ratios.append(ratio)
        blurs = np.stack([np.abs(wanted @ fit.inverse @ (blur @ fit.coefficients)) / fit.variance for _, fit in fits])
        found = weights @ energies
        variance = weights @ (np.stack(spreads) + (energies - found) ** 2)
        best = fits[0][1]
        each = np.stack([fit.coefficients for _, fit in fits])
        coefficients = weights @ each
        apart = (each - coefficients) * weights[:, None] ** 0.5
        covariance = np.tensordot(weights * ratios, np.stack([fit.inverse for _, fit in fits]), 1) + apart.T @ apart
        return PhaseEnergies(
            found * mean,
            (COVER * variance**0.5 + weights @ blurs + _behind(found, targets)) * mean,
            targets.seconds,
            targets.members,
            targets.edges,
            Model(mean, coefficients * mean, covariance * mean**2, best.variance * mean**2, best.scales),
        )


def _spread(groups: Groups, fit: Fit, wanted: Floats) -> Steps[tuple[Floats, float]]:
    """Return the variance of functions of the coefficients: by the posterior or by the jackknife, whichever is more.

    The second value is how many times as large as the posterior's it is, where that is most.
    """
    pulled = wanted @ fit.inverse
    posterior = np.einsum("ij,ij->i", pulled, wanted)
    prior = np.einsum("ij,ij->i", pulled @ fit.precision, pulled)
    scatter = yield from jackknife(groups, fit, wanted)
    result: Floats = np.maximum(posterior, scatter + prior / 2)
    ratios = np.divide(result, posterior, out=np.ones_like(result), where=posterior > 0)
    return result, float(ratios.max())


def _behind(energies: Floats, targets: Targets) -> Floats:
    """Return how far off energies are if power changes only after the intervals with an edge of a phase without a shape.

    Such a phase had too few edges to show how power follows them, and these intervals may all be wrong in the same direction:
    each of them by length x share x (1 - share) x the step of power.
    """
    ran = targets.seconds > 0
    watts = energies[ran] / targets.seconds[ran]
    result: Floats = targets.unshaped * np.ptp(watts) if len(watts) else targets.unshaped
    return result


def _blur(columns: Sequence[Column], edge_weights: Floats) -> Floats:
    """Return how much the errors of marks add to the normal matrix: they move time between the two phases at an edge."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, column in enumerate(columns):
        if column.kind == "age" or (column.kind == "level" and column.phase not in first):
            if column.kind == "level" or columns[first.get(column.phase, i)].kind == "level":
                first.pop(column.phase, None)
            first.setdefault(column.phase, i)
            last[column.phase] = i
    blur = np.zeros((len(columns), len(columns)))
    for before, after in np.argwhere(edge_weights > 0).tolist():
        if before in last and after in first:
            contrast = np.zeros(len(columns))
            contrast[last[before]], contrast[first[after]] = 1.0, -1.0
            blur += edge_weights[before, after] * _MARK_S**2 * np.outer(contrast, contrast)
    return blur
