"""Knots of a device's energy + time in each bucket -> joules of each bucket; pure.

One :class:`Ledger` serves one device. It divides the energy between two knots among the buckets that ran between them, in
proportion to fitted power x time, so that every joule is conserved. What a stage's phases come to is estimated from all its
intervals at once (``device_fit``).
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING
from zlib import crc32

from ml_energy_callbacks.attribution.cross_check import CrossCheck
from ml_energy_callbacks.attribution.knots import Knot, KnotFinder
from ml_energy_callbacks.attribution.power_trace import PowerTrace
from ml_energy_callbacks.attribution.refresh_grid import RefreshGrid
from ml_energy_callbacks.attribution.renewals import Renewals
from ml_energy_callbacks.attribution.split import Alone, Ends, Split, choose, split_stage
from ml_energy_callbacks.attribution.steps import at_once
from ml_energy_callbacks.attribution.timeline import TimelineReader
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.metrics import OUTSIDE
from ml_energy_callbacks.readings import Device, Reading, Regularity

if TYPE_CHECKING:
    from ml_energy_callbacks.attribution.device_fit import DeviceFit, FitTask, Powers

_SIGMAS = 2.0
"""Standard deviations of the half-width of a 95 % interval."""

_LEARNED = 100
"""After this many intervals between refreshes, some seconds, one more reading changes the fit only slightly."""

_SEASONED = 1200
"""After so many intervals, a minute of reads, a continuous counter is read half as often: more rows narrow a split only as the
root of their number."""

_EARLY_GROWTH = 1.5
"""Before the features are chosen, the few knots are fitted again when there are so many times as many."""

_BLUR = 4.0
"""A mean over a time hides when energy was used in it: at a step of power, by an eighth of that time x the step, which is a
fourth of what knots are dated back by."""

_ALL = 0.9
"""A device that sees its power for this share of each period sees all of it: periods and windows are only that well known."""

_EXCESS_NS = NS_PER_S

_LONG_GAPS = ((1.0, 0.01), (0.25, 0.1))
"""The energy of a device is incomplete if that of more time is not known, in s and as a share of the run, than one of these."""

_MOST_WAITING = 64
"""Largest number of knots that wait until the device has reached its edges; some seconds of readings. So many intervals with
marks wait for the ends of their last phases."""

_OPEN_NS = NS_PER_S // 2
"""So long do marks wait for the end of the phase that runs at the knot after them: most batches are shorter, and whoever prints
a window waits no longer than for a slow counter. After that, the interval holds what the phase's length may change."""

_CROSSINGS = 4
"""Intervals with marks that are resolved at once; each takes 0.2 ms."""


@dataclass(slots=True)
class Mark:
    """An instant for which the energy so far is requested.

    Attributes:
        time_ns: The instant, monotonic clock.
        totals: Time in each bucket at that instant, in ns.
        expected: Ids of the devices whose energy is requested.
        joules: Energy of each device inside the run up to the instant, by id, in J; set once the device has refreshed after
            the instant, and never if its energy at the instant is unknown.
        gaps: Number of gaps in each device's energy up to the instant, by id.
        half_widths: Half-widths of the 95 % intervals of ``joules``, by id, in J: a counter says only at its refreshes how much
            energy was used. They are independent from device to device.
        common: What devices of one backend have in common beside that, by id, in J: they are late by the same time, and where
            there is no fit, their energy may be used at the same part of an interval.
        sampling: Half-width in J of the energy of 1 s, by id, of devices that see their power for a part of the time only; that
            of other times grows with their square root.
    """

    time_ns: int
    totals: Sequence[float]
    expected: frozenset[str] = frozenset()
    joules: dict[str, float] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)
    half_widths: dict[str, float] = field(default_factory=dict)
    common: dict[str, float] = field(default_factory=dict)
    sampling: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Marked:
    """An interval between two knots with marks in it.

    Attributes:
        before: The knot before them.
        after: The knot after them.
        marks: The marks.
        early: Time in each bucket at the knot before, in ns.
        seconds: Time of each bucket that ran between the knots, in s.
        shares: Energy of each of these, in J.
        base: Energy inside the run up to the knot before, in J.
        gaps: Number of gaps in the device's energy up to there.
    """

    before: Knot
    after: Knot
    marks: Sequence[Mark]
    early: Sequence[float]
    seconds: Mapping[int, float]
    shares: Mapping[int, float]
    base: float
    gaps: int


@dataclass(frozen=True, slots=True)
class Published:
    """State of a ledger for other threads; immutable.

    Attributes:
        time_ns: Instant of the last knot.
        totals: Time in each bucket there, in ns.
        joules: Energy of each bucket there, in J.
        powers: Power of each bucket after that instant; None once the device is no longer read.
        stale_ns: Longest time after the last knot for which the energy is extrapolated.
        expected_ns: Time of the run up to the last knot in which the device was to be read.
        covered_ns: Part of that whose energy is known.
    """

    time_ns: int
    totals: Sequence[float]
    joules: Sequence[float]
    powers: "Powers | None"
    stale_ns: int
    expected_ns: float
    covered_ns: float

    def known_at(self, now: int, totals: Sequence[float]) -> list[float] | None:
        """Return each bucket's joules at an instant after the last knot; None if nothing of the run's energy is known."""
        expected, covered = self.coverage_at(now, totals)
        return self.at(now, totals) if covered or not expected else None

    def unknown_at(self, now: int, totals: Sequence[float]) -> float:
        """Return the time of the run, in ns, whose energy is not known at an instant after the last knot."""
        expected, covered = self.coverage_at(now, totals)
        return expected - covered

    def coverage_at(self, now: int, totals: Sequence[float]) -> tuple[float, float]:
        """Return the time of the run in which the device was to be read, and the part whose energy is known, in ns."""
        if self.powers is None:
            return self.expected_ns, self.covered_ns
        passed, elapsed = max(0.0, _inside(totals) - _inside(self.totals)), now - self.time_ns
        extrapolated = passed * min(1.0, self.stale_ns / elapsed) if elapsed > 0 else 0.0
        return self.expected_ns + passed, self.covered_ns + extrapolated

    def at(self, now: int, totals: Sequence[float]) -> list[float]:
        """Return each bucket's joules at an instant after the last knot.

        The energy since the last knot is extrapolated with the fitted powers, for ``stale_ns`` at most: the power of a device
        that can no longer be read is unknown.
        """
        joules = [*self.joules, *[0.0] * (len(totals) - len(self.joules))]
        elapsed = now - self.time_ns
        if elapsed > 0 and self.powers is not None:
            passed = _passed(self.totals, totals)
            # An edge that is resolved late moves time before the last knot from one bucket to another, but adds none.
            share = min(elapsed, self.stale_ns) / NS_PER_S / (sum(passed.values()) or 1.0)
            for bucket, seconds in passed.items():
                joules[bucket] += seconds * share * self.powers(bucket)
        return joules


class Ledger:
    """Joules of one device by bucket.

    Attributes:
        device: The device.
        finder: Derives the knots from the readings.
        check: Comparison of the device's counter with its power, if it reports both.
        joules: Energy of each bucket up to the last knot, in J.
        power: Power over the run up to the last knot.
        published: The state for other threads; None before the first two knots.
    """

    def __init__(self, device: Device, interval_s: float = 0.0) -> None:
        """Start an empty ledger of a device that is read about every ``interval_s`` seconds."""
        self.device = device
        self.finder = KnotFinder(device, interval_s)
        self.check = CrossCheck()
        self.joules: list[float] = []
        self.power = PowerTrace()
        self.published: Published | None = None
        self._begin_fits()
        self._timeline: TimelineReader | None = None
        # Seconds and joules of the intervals in which one bucket ran alone: these need no fit.
        self._alone: dict[int, Alone] = {}
        # The same of buckets that are counted together.
        self._together: dict[int, Alone] = {}
        # The intervals in which a group of buckets began or ended to run.
        self._ends: dict[int, Ends] = {}
        self._marks: list[Mark] = []
        self._marked: deque[_Marked] = deque()
        self._gaps = 0
        # Knots after an edge whose time on the device is not known yet.
        self._waiting: deque[Knot] = deque()
        self._knot: Knot | None = None
        self._totals: list[float] = []
        # Time of the run in which it was to be read, up to the present opening, and the part whose energy is known, in ns.
        self._expected_ns = self._covered_ns = 0.0
        self._opened_ns: float | None = None  # time of the run at the present opening
        self._period_s: float | None = None
        self._longest_s = 0.0
        self._jitter_s: float | None = None
        self._regularity: Regularity = "unknown"

    def _begin_fits(self) -> None:
        # Imported here because it imports NumPy, which takes 0.1 s: when a meter starts, not before.
        from ml_energy_callbacks.attribution.device_fit import DeviceFit  # noqa: PLC0415

        window_s, integrates = self.device.power_window_s, self.device.method == "power_integration"
        # Devices take turns, also where a recording of some of them is replayed.
        number = crc32(self.device.id.encode(errors="backslashreplace"))
        self._fit = DeviceFit(number, window_s or 0.0 if integrates else None)
        # Fits the readings of power beside a counter; their renewals are learned apart from the counter's.
        self._power_fit = None if integrates or window_s is None else DeviceFit(number + 1, window_s)
        self._renewals = Renewals()
        # Fits the knots of the run's first seconds, until there are enough of them to choose the features.
        self._early: DeviceFit | None = None

    def reopen(self, device: Device, interval_s: float) -> None:
        """Continue after a pause, with the device as it was found this time."""
        before, self.device = self.device, device
        if (before.method, before.power_window_s) != (device.method, device.power_window_s):
            self._begin_fits()  # rows of another kind
        self.finder.start_chain(device, interval_s)

    def begin(self, timeline: TimelineReader, now: int) -> None:
        """Begin to read the device: from this clock (ns) on, its energy is that of the run."""
        self._timeline = timeline
        self._opened_ns = _inside(timeline.totals)
        self.finder.begin(now, lambda instant: timeline.at(instant)[0][OUTSIDE])

    @property
    def period_s(self) -> float | None:
        """Learned period of the device's refreshes in s; None if none was learned."""
        period = self.finder.grid.period_ns
        return self._period_s if period is None else period / NS_PER_S

    @property
    def longest_s(self) -> float:
        """Longest time from one of its refreshes to the next that is known of, in s; 0 while there is none."""
        return self.finder.grid.longest_ns / NS_PER_S or self._longest_s

    @property
    def jitter_s(self) -> float | None:
        """Deviation of the refreshes from their grid in s; None if there is no grid."""
        jitter = self.finder.grid.jitter_ns
        return self._jitter_s if jitter is None else jitter / NS_PER_S

    @property
    def regularity(self) -> Regularity:
        """Regularity of the device's refreshes, as last known."""
        now = self.finder.grid.regularity
        return self._regularity if now == "unknown" else now

    @property
    def relative_uncertainty(self) -> float:
        """Uncertainty of its energy as a share: the device's own, or how far its counter is off its power, if that is more.

        All of it, where the device showed more power than it can draw: then nothing else that it shows is certain.
        """
        if self.doubtful and not self.finder.bridged:
            return 1.0
        difference = self.check.difference if self.check.suspicious else None
        return max(self.device.relative_uncertainty, abs(difference or 0.0))

    @property
    def doubtful(self) -> bool:
        """Whether the device showed more power than it can draw for longer than a mistaken reading or two."""
        return self.finder.excess_ns > _EXCESS_NS

    @property
    def known_until(self) -> int | None:
        """Instant of the last knot of this chain in ns, or None."""
        return self._knot.time_ns if self._knot else None

    @property
    def urgent(self) -> bool:
        """Whether the next reading must be added at once: a mark waits for it, reads fail, or the fit has too little data."""
        return self._fit.count < _LEARNED or bool(self._marks or self._marked) or self.finder.silent or self._knot is None

    @property
    def seasoned(self) -> bool:
        """Whether a counter that is up to date at each read was read so often that it may be read half as often."""
        continuous = self.finder.grid.regularity == "continuous" and self.device.method != "power_integration"
        return continuous and self._fit.count >= _SEASONED

    @property
    def power_grid(self) -> RefreshGrid | None:
        """The grid of the readings of power beside its counter; None where they are not fitted."""
        return None if self._power_fit is None else self._renewals.grid

    def incomplete_at(self, now: int, totals: Sequence[float]) -> bool:
        """Return whether the energy of much of the run is not known, at an instant after the last knot."""
        state = self.published
        return state is not None and is_long_gap(state.unknown_at(now, totals), _inside(totals))

    def add_mark(self, mark: Mark) -> None:
        """Request the energy at an instant that is not before the last knot."""
        self._marks.append(mark)

    def add_readings(self, held: Iterable[tuple[Reading, tuple[int, float] | None]], timeline: TimelineReader) -> None:
        """Add readings, oldest first, each with a power reading (ns, W) or None; refresh the timeline's reader before."""
        self._timeline = timeline
        for reading, power in held:
            if power is not None:
                self.finder.add_power(*power)
            self._waiting += self.finder.add_reading(reading)
            if self.finder.renewal is not None:
                self._fit.add_renewal(self.finder.renewal)
            if self.finder.silent:
                self.check.pause()
                self._renewals.pause()
            elif power is not None:
                self._add_renewal(reading, power)
                self.check.add_pair(power[0], self.finder.joules, power[1], self.finder.jumps)
        while self._waiting and (self._waiting[0].time_ns <= timeline.settled or len(self._waiting) > _MOST_WAITING):
            self._add(self._waiting.popleft(), timeline)
        self._publish(timeline)
        self._resolve_marked(timeline)

    def work_off(self, timeline: TimelineReader) -> bool:
        """Add rows to a fit if there are enough for a piece of work; return whether there were."""
        return any(fit.work_off(timeline) for fit in self._fits)

    @property
    def _fits(self) -> "list[DeviceFit]":
        return [self._fit] if self._power_fit is None else [self._fit, self._power_fit]

    def _add_renewal(self, reading: Reading, power: tuple[int, float]) -> None:
        """Add a power that was read after its counter to their fit."""
        if self._power_fit is not None:
            renewal = self._renewals.add(reading.ended_ns, *power)
            if renewal is not None:
                self._power_fit.add_renewal(renewal)

    def pause(self, timeline: TimelineReader, now: int) -> None:
        """End the chain of readings: the energy until the next reading is not attributed."""
        self.check.pause()
        self._renewals = Renewals()
        # The energy after the last good reading is unknown.
        since = self.finder.silent_since(now)
        end = now if since is None else since
        self._period_s, self._jitter_s, self._regularity = self.period_s, self.jitter_s, self.regularity
        self._longest_s = self.longest_s
        self._waiting += self.finder.pause(now)
        while self._waiting:
            self._add(self._waiting.popleft(), timeline)
        for fit in self._fits:
            while fit.work_off(timeline, all_of_them=True):
                pass
        self._resolve_marked(timeline, all_of_them=True)
        self._early = None
        self._publish(timeline)
        if self.published is not None and self._knot is not None:
            for mark in self._marks:
                if mark.time_ns <= end:
                    joules, sure = self.published.at(mark.time_ns, mark.totals), self.published.joules
                    inside = sum(joules) - joules[OUTSIDE]
                    guessed = inside - (sum(sure) - sure[OUTSIDE])
                    most = self.finder.most_watts * (mark.time_ns - self.published.time_ns) / NS_PER_S
                    # Extrapolated: any of it may be wrong.
                    self._resolve(mark, inside, 0.0, max(guessed, most - guessed), self._gaps)
            if end > self._knot.time_ns:
                totals = timeline.totals if end == now else timeline.at(end)[0]
                before, covered = _inside(self.joules), self._covered_ns
                self.joules = self.published.at(end, totals)
                _, self._covered_ns = self.published.coverage_at(end, totals)
                began = _inside(self._totals)
                self._trace(began, began + self._covered_ns - covered, _inside(self.joules) - before)
        self.power.skip(_inside(timeline.totals) / NS_PER_S)
        self._expected_ns = self._expected_at(timeline.totals)
        self._opened_ns = None
        if self.published is not None:
            self.published = Published(now, timeline.totals, self.joules[:], None, 0, self._expected_ns, self._covered_ns)
        self._marks.clear()
        self._knot = None
        self._gaps += 1

    def _add(self, knot: Knot, timeline: TimelineReader) -> None:
        totals, _ = timeline.at(knot.time_ns)
        self.joules += [0.0] * (len(totals) - len(self.joules))
        before = self._knot
        if before is not None and knot.time_ns <= before.time_ns:
            if not knot.starts:
                return  # two estimates of one refresh: the next knot includes its energy
            # By its bounds, the first refresh after a reset may lie before the last refresh before it.
            knot = knot._replace(time_ns=before.time_ns)
        if self._opened_ns is None:
            self._opened_ns = _inside(totals)
        if before is not None and knot.starts:
            self._gaps += 1
            self._marks = [mark for mark in self._marks if mark.time_ns > knot.time_ns]
        self._fit.add_knot(knot)
        if before is not None and not knot.starts:
            self._spread(before, knot, totals, timeline)
        self._knot, self._totals = knot, totals

    def _publish(self, timeline: TimelineReader) -> None:
        """Publish the state up to the last knot; before a waiting knot, the time in each bucket is provisional."""
        before, early, joules, covered = self._knot, self._totals, self.joules[:], self._covered_ns
        # After a gap, marks wait until it is known which of them lie in it; else, no longer than for the end of a phase.
        unbroken = True
        for knot in self._waiting:
            totals, _ = timeline.at(knot.time_ns)
            joules += [0.0] * (len(totals) - len(joules))
            if before is not None and knot.time_ns <= before.time_ns and not knot.starts:
                continue
            seconds = _passed(early, totals)
            if before is not None and not knot.starts and seconds:
                overdue = timeline.now - knot.time_ns > _OPEN_NS
                self._divide(before, knot, early, seconds, joules, resolve=unbroken and overdue)
                covered += _inside(totals) - _inside(early)
            unbroken = unbroken and (before is None or not knot.starts)
            before, early = knot, totals
        powers = self._powers
        if before is not None and powers is not None:  # one knot alone has no energy
            stale_ns, expected = self.finder.longest_gap_ns, self._expected_at(early)
            self.published = Published(before.time_ns, early, joules, powers, stale_ns, expected, covered)

    def _expected_at(self, totals: Sequence[float]) -> float:
        """Return the time of the run in which it was to be read up to an instant, from the totals at it; in ns."""
        now = 0.0 if self._opened_ns is None else max(0.0, _inside(totals) - self._opened_ns)
        return self._expected_ns + now

    @property
    def unknown_ns(self) -> float:
        """Time of the run, up to the end of reading, in which it was to be read and whose energy is not known, in ns."""
        return self._expected_ns - self._covered_ns

    @property
    def _latest(self) -> "DeviceFit":
        """The fit with the most knots that has energies."""
        return self._fit if self._early is None else self._early

    @property
    def _powers(self) -> "Powers | None":
        powers = self._fit.powers()
        if powers is not None and self._early is not None and not powers.watts:
            early = self._early.powers()
            return powers if early is None else powers._replace(watts=early.watts)
        return powers

    def _spread(self, before: Knot, knot: Knot, totals: list[float], timeline: TimelineReader) -> None:
        energy = knot.joules - before.joules
        seconds = _passed(self._totals, totals)
        if not seconds:
            return
        began, ended = _inside(self._totals), _inside(totals)
        self._covered_ns += ended - began
        if self.device.method != "power_integration":
            _add_alone(self._alone, seconds, seconds.keys(), energy)
            _add_alone(self._together, seconds, {timeline.whole(bucket) for bucket in seconds}, energy)
        shares = self._divide(before, knot, self._totals, seconds, self.joules)
        self._trace(began, ended, sum(shares.values()) - shares.get(OUTSIDE, 0.0))
        groups = {timeline.group(bucket) for bucket in shares} if len(shares) > 1 else ()
        if len(groups) > 1:
            for group in groups:
                inside = sum(share for bucket, share in shares.items() if timeline.group(bucket) == group)
                ends = self._ends.get(group, Ends())
                self._ends[group] = Ends(ends.inside + inside, ends.outside + energy - inside)

    def _trace(self, began: float, ended: float, joules: float) -> None:
        """Add the energy (J) between two instants, given as the time of the run up to them (ns), to the power over time."""
        self.power.add(began / NS_PER_S, ended / NS_PER_S, joules)

    def _divide(
        self,
        before: Knot,
        knot: Knot,
        early: list[float],
        seconds: Mapping[int, float],
        joules: list[float],
        *,
        resolve: bool = True,
    ) -> dict[int, float]:
        """Add the energy between two knots to the buckets that ran between them, by fitted power x time; return it."""
        powers = self._powers
        energy = knot.joules - before.joules
        weights = {b: 0.0 if powers is None else powers(b) * time for b, time in seconds.items()}
        if OUTSIDE in weights and len(weights) > 1:
            self._weigh_outside(weights, seconds[OUTSIDE], energy)
        whole = sum(weights.values())
        if whole <= 0.0:
            weights, whole = dict(seconds), sum(seconds.values())
        shares = {b: energy * weight / whole for b, weight in weights.items()}
        if resolve and self._marks:
            self._enclose_marks(before, knot, early, shares, seconds, sum(joules) - joules[OUTSIDE])
        for b, share in shares.items():
            joules[b] += share
        return shares

    def _weigh_outside(self, weights: dict[int, float], seconds: float, energy: float) -> None:
        """Set the weight of the time outside the run in an interval of this energy (J) at the run's start or end."""
        inside = sum(weights.values()) - weights[OUTSIDE]
        powers = self._powers
        known = powers is not None and all(bucket in powers.watts for bucket in weights if bucket != OUTSIDE)
        alone = self._alone.get(OUTSIDE)
        if known or alone is None:
            # There are few readings before and after the run: the energy outside is what remains after the run's buckets.
            weights[OUTSIDE] = max(0.0, energy - inside)
            return
        # At the start, the power outside is all that is known.
        weights[OUTSIDE] = min(energy, seconds * alone.joules / alone.seconds)
        for bucket in weights:
            if bucket != OUTSIDE and inside > 0:
                weights[bucket] *= (energy - weights[OUTSIDE]) / inside

    def _enclose_marks(
        self,
        before: Knot,
        knot: Knot,
        early: Sequence[float],
        shares: Mapping[int, float],
        seconds: Mapping[int, float],
        base: float,
    ) -> None:
        """Move the marks that are before a knot to those that wait for the end of the phase which runs at it."""
        due = [mark for mark in self._marks if mark.time_ns <= knot.time_ns]
        if due:
            self._marks = [mark for mark in self._marks if mark.time_ns > knot.time_ns]
            self._marked.append(_Marked(before, knot, due, early, seconds, shares, base, self._gaps))

    def _resolve_marked(self, timeline: TimelineReader, *, all_of_them: bool = False) -> None:
        """Resolve the marks of intervals whose last phase has ended, or lasts too long to wait for its end."""
        held = len(self._marked)
        for _ in range(held if all_of_them else min(held, max(_CROSSINGS, held - _MOST_WAITING))):
            after, fits = self._marked[0].after.time_ns, self._latest.fitted and OUTSIDE not in self._marked[0].seconds
            ended = not fits or timeline.closed_ns >= after or timeline.now - after > _OPEN_NS
            if not (ended or all_of_them or len(self._marked) > _MOST_WAITING):
                return
            self._resolve_marks(self._marked.popleft(), timeline)

    def _resolve_marks(self, marked: _Marked, timeline: TimelineReader) -> None:
        before, seconds, shares = marked.before, marked.seconds, marked.shares
        crossing, blurred = None, self.finder.behind_ns / NS_PER_S / _BLUR
        if OUTSIDE not in seconds and all(mark.time_ns >= before.time_ns for mark in marked.marks):
            crossing = self._latest.cross(timeline, before, marked.after, [mark.time_ns for mark in marked.marks])
        for i, mark in enumerate(marked.marks):
            if crossing is not None:
                # A latency moves both edges of a window to the same side: each has half of what that changes in all.
                common = (self.device.latency_s / 2 + blurred) * crossing.watts
                self._resolve(
                    mark, marked.base + float(crossing.joules[i]), float(crossing.half_widths[i]), common, marked.gaps
                )
                continue
            joules = 0.0
            for b, energy in shares.items():
                if b != OUTSIDE and b < len(mark.totals):
                    began = marked.early[b] if b < len(marked.early) else 0.0
                    joules += energy * min(1.0, max(0.0, (mark.totals[b] - began) / NS_PER_S / seconds[b]))
            # Without a fit, any part of the energy may have been used before the mark.
            possible = sum(shares.values())
            watts = possible / sum(seconds.values())
            half = max(joules, possible - joules) + blurred * watts
            self._resolve(mark, marked.base + joules, 0.0, half, marked.gaps)

    def _resolve(self, mark: Mark, joules: float, half_width: float, common: float, gaps: int) -> None:
        name = self.device.id
        mark.half_widths[name], mark.common[name] = half_width, common
        mark.sampling[name], mark.gaps[name] = self.sampling, gaps
        mark.joules[name] = joules  # last, as a window is known from then on

    @property
    def sampling(self) -> float:
        """Half-width in J of the energy of 1 s, as the device sees its power for a part of each period only.

        The mean of n readings that scatter is as uncertain as that of any sample (Yang, Adamek and Armour, arXiv:2312.02741).
        """
        window, period = self.device.power_window_s, self.period_s or self.longest_s
        if window is None or window >= _ALL * period:
            return 0.0
        return _SIGMAS * self._fit.deviation * sqrt(period)

    def fit_tasks(self) -> "list[FitTask]":
        """Return the fits that are due. Their steps need no lock, which is held now and when they are accepted."""
        if self._timeline is None:
            return []
        tasks = [task for fit in self._fits if (task := fit.task(every_row=self._knot is None)) is not None]
        if self._fit.begun:
            self._early = None
        elif self._early is None or self._fit.count > _EARLY_GROWTH * self._early.count:
            tasks.append(self._fit.early_task(self._timeline))
        return tasks

    def add_due_rows(self) -> bool:
        """Add the rows of a piece of work as in :meth:`work_off`, to what was read up to the last readings."""
        return self._timeline is not None and self.work_off(self._timeline)

    def accept(self, tasks: "Iterable[FitTask]") -> None:
        """Use what was solved from now on."""
        for task in tasks:
            task.accept()
            if task.early and not self._fit.begun:
                self._early = task.fit

    def fit(self) -> None:
        """Solve and accept the fits that are due."""
        tasks = self.fit_tasks()
        for task in tasks:
            at_once(task.steps())
        self.accept(tasks)

    def split(
        self,
        group: int,
        phases: Sequence[Sequence[int]],
        seconds: Sequence[Sequence[float]],
        joules: Sequence[Sequence[float]],
        idle_watts: float | None = None,
    ) -> list[tuple[Split, Sequence[Split]]]:
        """Divide the energy of a stage among its phases, and that of each phase among its buckets, by the last fits.

        Args:
            group: The stage's group on the timeline.
            phases: The buckets of each phase: the stage's own, and then those that are a part of it.
            seconds: Time of each bucket in s.
            joules: Energy of each bucket in J, as divided so far; the sum of all is preserved.
            idle_watts: The device's idle power in W; None if unknown.

        Returns:
            The energy of each phase, and that of each of its buckets.
        """

        def divide(
            buckets: Sequence[int], seconds: Sequence[float], whole: float, ends: Ends, *, together: bool
        ) -> list[Split]:
            known = self._together if together else self._alone
            alone = [known.get(bucket, Alone()) for bucket in buckets]
            splits = [
                split_stage(
                    seconds, whole, alone, fit.energies(group, buckets, together=together), self.device, idle_watts, ends
                )
                for fit in (self._latest, self._power_fit)
                if fit is not None
            ]
            return splits[0] if len(splits) == 1 else choose(*splits, contradictory=self._contradictory(group))

        whole, ends = sum(map(sum, joules)), self._ends.get(group, Ends())
        found = divide([phase[0] for phase in phases], [sum(times) for times in seconds], whole, ends, together=True)
        parts = [
            [split]
            if len(phase) == 1
            else divide(phase, times, split.joules, Ends(split.joules - split.low, split.high - split.joules), together=False)
            for phase, times, split in zip(phases, seconds, found, strict=True)
        ]
        return list(zip(found, parts, strict=True))

    @property
    def contradictory(self) -> bool:
        """Whether its counter and its power contradict each other on the phases of a stage."""
        return self._power_fit is not None and any(self._contradictory(group) for group in self._power_fit.groups)

    def _contradictory(self, group: int) -> bool:
        both = [energies for fit in (self._latest, self._power_fit) if fit and (energies := fit.stage(group)) is not None]
        return len(both) > 1 and both[0].contradicts(both[1], self.device.latency_s)


def is_long_gap(unknown_ns: float, run_ns: float) -> bool:
    """Return whether a device's energy is unknown for so much of the run that it is incomplete."""
    return any(unknown_ns > max(seconds * NS_PER_S, share * run_ns) for seconds, share in _LONG_GAPS)


def _inside(totals: Sequence[float]) -> float:
    """Return the time of the run, or its energy, from that of each bucket."""
    return sum(totals) - totals[OUTSIDE]


def _add_alone(known: dict[int, Alone], seconds: Mapping[int, float], ran: Collection[int], joules: float) -> None:
    """Add an interval to those in which one bucket ran alone, if so it was."""
    if len(ran) == 1:
        (only,) = ran
        before = known.get(only, Alone())
        known[only] = Alone(before.seconds + sum(seconds.values()), before.joules + joules)


def _passed(early: Sequence[float], totals: Sequence[float]) -> dict[int, float]:
    """Return the time in each bucket between two instants in s, from the totals at them in ns."""
    if len(early) < len(totals):
        early = [*early, *[0.0] * (len(totals) - len(early))]
    return {b: (end - start) / NS_PER_S for b, (start, end) in enumerate(zip(early, totals, strict=True)) if end > start}
