"""Knots of one device + the timeline -> the energy of each phase of each stage, in constant memory; pure.

Knots are collected and worked off two dozen at a time: NumPy then takes about 50 µs a knot, and no piece of work holds up the
training loop. Solving is separate (:class:`FitTask`), so that it can run in steps, without the lock that readings need.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import NamedTuple

import numpy as np

from ml_energy_callbacks.attribution.features import DELAYS, FEWEST_SEGMENTS
from ml_energy_callbacks.attribution.knots import Knot
from ml_energy_callbacks.attribution.phase_energy import COVER, PhaseEnergies, StageProblem, Target
from ml_energy_callbacks.attribution.renewals import Renewal
from ml_energy_callbacks.attribution.segments import OUTSIDE_STAGE, Floats, segments
from ml_energy_callbacks.attribution.stage_rows import StageRows, reach_s
from ml_energy_callbacks.attribution.steps import Steps
from ml_energy_callbacks.attribution.timeline import TimelineReader
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.metrics import OUTSIDE

_PIECE = 24
"""Intervals that are worked off at once: a millisecond of work."""

_PIECE_SEGMENTS = 256
"""So many segments take as long, where batches are short."""

_FIRST_KNOTS, _FIRST_NS = 64, 6 * NS_PER_S
"""The columns are chosen by the phases in so many knots and so long a time; a dozen lengths of each phase show its median."""

_TURN_NS = 100_000_000
"""So long after the columns of one device, those of the next one are chosen."""

_SHORTEST_NS, _MANY = 500_000, 32
"""Intervals with many segments that are shorter on average get no rows: batches below a millisecond have ranges only, and the
rows of thousands of them in a second would take more of the loop's time than all else."""

_MOST_SWITCHES = 1024
"""With so many switches since the first of them, knots are worked off however few they are: the timeline does not keep more for
long."""

_MOST_SEEN = 2048
"""Switches by which columns are chosen; more would take longer than a piece of work."""

_BACK_NS = round((DELAYS[-1] + 0.05) * NS_PER_S)
"""What happened this long before a knot matters for its features."""

_OPEN_NS = 2 * NS_PER_S
"""Knots in a phase that has run for longer do not wait for its end if there are many of them."""

_NEAR_END_NS = 10_000_000
"""How near the end of such a phase may be, without showing in its features."""

_GROWTH = 1.5
"""While a run goes on, a stage is fitted again when it has so many times the rows: some 25 fits in a day."""


class Powers(NamedTuple):
    """Best estimates of the buckets' mean powers; immutable.

    Attributes:
        watts: Power of each bucket that was told apart, in W.
        mean: Power of any other bucket, in W.
    """

    watts: Mapping[int, float]
    mean: float

    def __call__(self, bucket: int) -> float:
        """Return a bucket's power in W."""
        return self.watts.get(bucket, self.mean)


@dataclass(slots=True)
class _Stage:
    """One stage's rows, and what was last found of them.

    Its sub-stages and the parts of its batches are phases of the same fit, from when they first run: one that is short is told
    apart from what is around it.
    """

    numbers: dict[int, int]
    rows: StageRows
    fitted_rows: int = 0
    energies: PhaseEnergies | None = None

    @classmethod
    def of(cls, buckets: Sequence[int]) -> "_Stage":
        """Return a stage without rows that has these buckets."""
        return cls({bucket: number for number, bucket in enumerate(buckets, start=1)}, StageRows(len(buckets)))

    def add_buckets(self, buckets: AbstractSet[int], timeline: TimelineReader) -> None:
        """Number those that belong to the stage and have no number yet."""
        for bucket in sorted(buckets - self.numbers.keys()):
            whole = self.numbers.get(timeline.whole(bucket))
            if whole is not None:
                self.rows.add_phase(whole)
                self.numbers[bucket] = len(self.numbers) + 1

    def targets(self, buckets: Sequence[int] | None = None, *, together: bool = False) -> list[int | None]:
        """Return the rows of the targets of buckets, of all if none are given; None of one that has not run."""
        row = self.rows.targets.together if together else self.rows.targets.alone
        numbers = [self.numbers.get(bucket) for bucket in (self.numbers if buckets is None else buckets)]
        return [None if number is None else row(number) for number in numbers]


@dataclass(slots=True)
class FitTask:
    """Fits of one device that are due. The steps that solve them need no lock; to begin and to accept them, one is held."""

    fit: "DeviceFit"
    _timeline: TimelineReader | None = None  # where rows have to be added first
    _solved: "list[tuple[_Stage, int, PhaseEnergies | None]]" = field(default_factory=list)
    _problems: "list[tuple[_Stage, StageProblem]]" = field(default_factory=list)

    @property
    def early(self) -> bool:
        """Whether it is a fit of knots that still wait for the features to be chosen."""
        return self._timeline is not None

    def steps(self) -> Steps[None]:
        """Solve them."""
        while self._timeline is not None and self.fit.work_off(self._timeline, all_of_them=True):
            yield
        for stage, problem in self._problems or self.fit.problems(every_row=True):
            energies = yield from problem.steps()
            self._solved.append((stage, problem.rows, energies))
            yield

    def accept(self) -> None:
        """Use the solutions from now on; where there is none, the one before stays in use."""
        for stage, rows, energies in self._solved:
            stage.fitted_rows = rows
            if energies is not None:
                self.fit.accept(stage, energies)


class Crossing(NamedTuple):
    """Energy up to instants between two knots, by the fitted curve.

    Attributes:
        joules: Since the first of the two knots, in J.
        half_widths: Half-widths of their 95 % intervals, without the latency of the device, in J.
        watts: Largest difference between the powers of two phases, in W.
    """

    joules: Floats
    half_widths: Floats
    watts: float


@dataclass(slots=True)
class DeviceFit:
    """The fits of one device.

    Attributes:
        number: A number of the device; those with different ones are not worked off all at once.
        window_s: Where its rows are readings of power, each is the mean over a window of this length (s). None where rows are
            what a counter shows between two knots.
        count: Number of intervals between knots so far.
        begun: Whether the features were chosen.
    """

    number: int = 0
    window_s: float | None = None
    count: int = 0
    _joules: float = 0.0
    _seconds: float = 0.0
    _moments: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Sums over the intervals of rows: of s, J and J x W."""
    _origin_ns: int | None = None
    _last: Knot | None = None
    _pending: list[Knot] = field(default_factory=list)
    _stages: dict[int, _Stage] = field(default_factory=dict)
    _watts: dict[int, float] = field(default_factory=dict)
    begun: bool = False

    def add_knot(self, knot: Knot) -> None:
        """Add a knot of the energy, later than the one before."""
        before, self._last = self._last, knot
        if before is not None and not knot.starts:
            self.count += 1
            self._joules += knot.joules - before.joules
            self._seconds += (knot.time_ns - before.time_ns) / NS_PER_S
        if self.window_s is None:
            self._pend(knot)

    def add_renewal(self, renewal: Renewal) -> None:
        """Add a reading of power that was renewed: it stands for the time since the renewal before."""
        joules = 0.0
        if self._pending:
            before = self._pending[-1]
            joules = before.joules + renewal.watts * (renewal.time_ns - before.time_ns) / NS_PER_S
        self._pend(Knot(renewal.time_ns, renewal.sigma_ns, joules, renewal.starts))

    def _pend(self, knot: Knot) -> None:
        if self._origin_ns is None:
            self._origin_ns = knot.time_ns
        if self._pending and not knot.starts and knot.time_ns > self._pending[-1].time_ns:
            before = self._pending[-1]
            seconds, joules = (knot.time_ns - before.time_ns) / NS_PER_S, knot.joules - before.joules
            s, j, jw = self._moments
            self._moments = s + seconds, j + joules, jw + joules**2 / seconds
        self._pending.append(knot)

    def powers(self) -> Powers | None:
        """Return the best estimate of each bucket's mean power; None before the first interval."""
        return Powers(self._watts, max(0.0, self._joules / self._seconds)) if self.count else None

    @property
    def deviation(self) -> float:
        """Standard deviation of the power that refreshes or readings have shown so far, in W."""
        seconds, joules, squares = self._moments
        return sqrt(max(0.0, squares / seconds - (joules / seconds) ** 2)) if seconds else 0.0

    # ---------------------------------------------------------------------------------------------------- rows

    def work_off(self, timeline: TimelineReader, *, all_of_them: bool = False) -> bool:
        """Add rows for the knots that have come, as soon as there are enough of them for a piece of work.

        Args:
            timeline: Its reader, refreshed.
            all_of_them: Do not wait for more.

        Returns:
            Whether there were enough; then there may be another piece.
        """
        pending = self._pending
        if len(pending) < 2:  # noqa: PLR2004 - an interval has two ends
            return False
        crowded = timeline.switches(pending[0].time_ns) >= _MOST_SWITCHES
        turn = self.number % _PIECE
        if not (all_of_them or crowded or len(pending) > _PIECE + turn):
            return False
        if not (all_of_them or crowded or self.begun) and (
            len(pending) < _FIRST_KNOTS or pending[-1].time_ns - pending[0].time_ns < _FIRST_NS + turn * _TURN_NS
        ):
            return False
        until = timeline.closed_ns
        if all_of_them or (len(pending) > 2 * _PIECE and timeline.settled - until > _OPEN_NS):
            until = timeline.settled - (0 if all_of_them else _NEAR_END_NS)
        reach = (lambda _: 0) if all_of_them else self._reach_ns
        ready = next((i for i, knot in enumerate(pending) if knot.time_ns + reach(knot) > until), len(pending))
        if ready < 2 or not (all_of_them or crowded or ready > _PIECE):  # noqa: PLR2004 - as above
            return False
        piece = self._piece(ready, timeline)
        if _is_dense(timeline, piece[0].time_ns, piece[-1].time_ns):
            self._break_chains()
            del pending[: len(piece) - 1]
            return True
        self.begun = True
        if not self._shape_stages(pending[0].time_ns, timeline, until):
            self._add_piece(piece, timeline, until)
        return True

    def _break_chains(self) -> None:
        for stage in self._stages.values():
            stage.rows.break_chain()

    def _add_piece(self, piece: Sequence[Knot], timeline: TimelineReader, until: int) -> None:
        """Add the rows of the first knots that are pending."""
        for chain in _chains(piece, timeline.first_ns):
            if chain[0].starts:
                self._break_chains()
            if len(chain) > 1:
                self._add_chain(chain, timeline, until)
        del self._pending[: len(piece) - 1]

    def _reach_ns(self, knot: Knot) -> int:
        """Return how far after a knot its features look, in ns."""
        return round(reach_s(knot.sigma_ns / NS_PER_S, self.window_s) * NS_PER_S)

    def _piece(self, ready: int, timeline: TimelineReader) -> Sequence[Knot]:
        """Return the knots of a piece of work; the first so many are ready."""
        pending, left = self._pending, _PIECE_SEGMENTS
        for i in range(1, min(ready, _PIECE + 1)):
            left -= timeline.switches(pending[i - 1].time_ns, pending[i].time_ns)
            if left < 0 and i > 1:
                return pending[:i]
        return pending[: min(ready, _PIECE + 1)]

    def _shape_stages(self, since: int, timeline: TimelineReader, until: int) -> bool:
        """Choose the columns of phases that have run since an instant and have none yet; return whether any were chosen."""
        if _is_dense(timeline, since, until):
            return False
        ran = {bucket for _, bucket in timeline.stretch(since, until)[0]}
        switches: Sequence[tuple[int, int]] = ()
        chosen = False
        for group in sorted({timeline.group(bucket) for bucket in ran} - {OUTSIDE}):
            if group not in self._stages:
                self._stages[group] = _Stage.of(timeline.buckets(group))
            stage = self._stages[group]
            stage.add_buckets(ran, timeline)
            if stage.rows.has_shapes({stage.numbers.get(bucket, OUTSIDE_STAGE) for bucket in ran}):
                continue
            switches = switches or timeline.stretch(timeline.first_ns, until)[0][-_MOST_SEEN:]
            counts = Counter(stage.numbers.get(bucket, OUTSIDE_STAGE) for _, bucket in switches)
            if not any(count >= FEWEST_SEGMENTS and phase not in stage.rows.basis.shaped for phase, count in counts.items()):
                continue
            seen = segments(switches, until, stage.numbers, self._origin_ns or 0)
            if seen is not None:
                chosen = stage.rows.shape(seen) or chosen
        return chosen

    def _add_chain(self, chain: Sequence[Knot], timeline: TimelineReader, until: int) -> None:
        """Add the rows of knots between which all energy is known."""
        origin = self._origin_ns or 0
        instants = np.array([knot.time_ns - origin for knot in chain]) / NS_PER_S
        sigmas = np.array([knot.sigma_ns for knot in chain]) / NS_PER_S
        joules = np.array([knot.joules for knot in chain])
        back = _BACK_NS + round((self.window_s or 0.0) * NS_PER_S)
        begin, last = chain[0].time_ns - self._reach_ns(chain[0]), chain[-1].time_ns + self._reach_ns(chain[-1])
        switches, end = timeline.stretch(begin - back, last)
        ran = {bucket for _, bucket in switches}
        for group in sorted({timeline.group(bucket) for bucket in ran} - {OUTSIDE}):
            stage = self._stages.get(group)
            if stage is not None:
                stage.add_buckets(ran, timeline)
            these = None if stage is None else segments(switches, end or until, stage.numbers, origin)
            if stage is not None and these is not None:
                stage.rows.add(instants, sigmas, joules, these, self.window_s)

    # ---------------------------------------------------------------------------------------------------- fits

    def problems(self, *, every_row: bool) -> "list[tuple[_Stage, StageProblem]]":
        """Return the problems of stages whose rows have grown much since they were solved, or at all where every row counts."""
        found = []
        for stage in self._stages.values():
            rows = stage.rows.equations.rows
            if rows > stage.fitted_rows and (every_row or rows >= _GROWTH * stage.fitted_rows):
                problem = stage.rows.problem()
                if problem is not None:
                    found.append((stage, problem))
        return found

    def task(self, *, every_row: bool) -> FitTask | None:
        """Return the fits that are due, as in :meth:`problems`; None if there are none."""
        problems = self.problems(every_row=every_row)
        return FitTask(self, _problems=problems) if problems else None

    def early_task(self, timeline: TimelineReader) -> FitTask:
        """Return another fit, of the knots that still wait for the features to be chosen."""
        fit = replace(self, number=0, _pending=self._pending[:], _stages={}, _watts={})
        return FitTask(fit, timeline.copy())

    def accept(self, stage: "_Stage", energies: PhaseEnergies) -> None:
        """Use a stage's energies from now on."""
        stage.energies = energies
        stage.rows.scales = energies.model.scales
        for bucket, target in zip(stage.numbers, energies.at(stage.targets()), strict=True):
            if target.seconds > 0:
                self._watts = {**self._watts, bucket: max(0.0, target.watts)}

    @property
    def fitted(self) -> bool:
        """Whether the power of a stage with several phases was fitted: one that goes on has no length."""
        found = (stage.energies for stage in self._stages.values())
        return any(each is not None and bool((each.seconds > 0).sum() > 1) for each in found)

    @property
    def groups(self) -> Sequence[int]:
        """The stages that were seen, by their groups on the timeline."""
        return list(self._stages)

    def stage(self, group: int) -> PhaseEnergies | None:
        """Return the energies of a stage's phases, by their numbers in this fit; None if none were fitted."""
        stage = self._stages.get(group)
        return None if stage is None else stage.energies

    def energies(self, group: int, buckets: Sequence[int], *, together: bool) -> list[Target] | None:
        """Return what was found of some of a stage's buckets; None if none were fitted.

        Args:
            group: The stage's group on the timeline.
            buckets: The buckets.
            together: Whether each stands for all that are counted together with it, too.
        """
        stage = self._stages.get(group)
        if stage is None or stage.energies is None:
            return None
        return stage.energies.at(stage.targets(buckets, together=together))

    # ---------------------------------------------------------------------------------------------------- instants

    def cross(self, timeline: TimelineReader, before: Knot, after: Knot, instants_ns: Sequence[int]) -> Crossing | None:
        """Return the energy from a knot to instants before the next one by the fitted curve; None where none was fitted.

        The energy between the knots is the device's own; the curve says when it was used.
        """
        origin = self._origin_ns or 0
        times = np.array([before.time_ns - origin, *(t - origin for t in instants_ns), after.time_ns - origin]) / NS_PER_S
        switches, end = timeline.stretch(before.time_ns - _BACK_NS, after.time_ns)
        running = max((clock for clock, _ in switches if clock <= before.time_ns), default=None)
        groups = {timeline.group(bucket) for clock, bucket in switches if running is not None and clock >= running}
        if len(groups) != 1:
            return None
        stage = self._stages.get(next(iter(groups)))
        if stage is None or stage.energies is None:
            return None
        these = segments(switches, end or max(after.time_ns, timeline.settled), stage.numbers, origin)
        if these is None:
            return None
        model, basis = stage.energies.model, stage.rows.basis
        features = basis.integrals(these, times)[:, : len(model.coefficients)]
        features -= features[0]
        passed = times - times[0]
        length, energy = passed[-1], after.joules - before.joules
        share = passed / length
        fitted = model.mean * passed + features @ model.coefficients
        residual = energy - fitted[-1]
        joules = (fitted + residual * share).clip(min(0.0, energy), max(0.0, energy))
        contrast = features - share[:, None] * features[-1]
        variance = np.einsum("ij,jk,ik->i", contrast, model.covariance, contrast).clip(0)
        # What no feature explains is spread over the interval; what this one shows may have come at one instant of it, too.
        variance += (model.variance * length + residual**2) * share * (1 - share)
        mean_watts = energy / length
        variance += (mean_watts * before.sigma_ns / NS_PER_S * (1 - share)) ** 2
        variance += (mean_watts * after.sigma_ns / NS_PER_S * share) ** 2
        halves = COVER * variance**0.5
        if end is None:  # the last phase goes on, so that its power by its length is not known
            last = int(these.phases[-1])
            open_s = np.clip(times - these.edges[-2], 0.0, None)
            changes = basis.length_watts(last, float(these.lengths[-1]), model.coefficients)
            halves += np.abs(open_s - share * open_s[-1]) * changes
        return Crossing(joules[1:-1], halves[1:-1], stage.energies.largest_step)


def _is_dense(timeline: TimelineReader, begin: int, end: int) -> bool:
    """Return whether what ran between two instants (ns) are many segments, too short on average to be told apart."""
    count, length_ns = timeline.segments(begin, end)
    return count > _MANY and length_ns < count * _SHORTEST_NS


def _chains(knots: Sequence[Knot], first_ns: int) -> list[list[Knot]]:
    """Return runs of knots between which all energy is known; those before the clock ``first_ns`` are left out."""
    chains: list[list[Knot]] = []
    for knot in knots:
        if knot.time_ns < first_ns:
            continue
        if knot.starts or not chains:
            chains.append([])
        chains[-1].append(knot)
    return chains
