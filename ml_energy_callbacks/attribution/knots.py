"""Readings of one device -> knots of its cumulative energy; pure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import NamedTuple

from ml_energy_callbacks.attribution.counters import EnergyCounter, PowerIntegral, Step, most_watts
from ml_energy_callbacks.attribution.refresh_grid import Refresh, RefreshGrid
from ml_energy_callbacks.attribution.renewals import Renewal, Renewals
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.readings import Device, Reading


class Knot(NamedTuple):
    """A point of the curve of cumulative energy.

    Attributes:
        time_ns: Instant at which the counter was refreshed, monotonic clock.
        sigma_ns: Standard deviation of that instant.
        joules: Energy since the first reading of the device, in J.
        starts: True if the energy since the previous knot is unknown: a new chain begins here.
    """

    time_ns: int
    sigma_ns: float
    joules: float
    starts: bool


_LATE_NS = 250_000_000
"""A device's first reading begins so soon after the start, also on a busy machine; until a later one its energy is unknown."""

_FROZEN_NS = 5 * NS_PER_S
"""A working counter of a device that is on changes far more often; one that does not change for this long is frozen."""


@dataclass(slots=True)
class _MeansChain:
    """Readings of power that are means over a window, between which all energy is known.

    A reading is shown from its renewal to the next one: on average half a window and half a period after the middle of the time
    of which it is the mean. The curve of energy is dated back by as much.

    Attributes:
        window_ns: Length of the window.
        renewals: Their renewals.
        behind_ns: By how much knots are dated back; 0 until it is known whether there is a period.
    """

    window_ns: float
    renewals: Renewals = field(default_factory=Renewals)
    behind_ns: int = 0
    _early: list[Knot] | None = field(default_factory=list)
    """Knots that wait for the period; None from then on."""

    @property
    def grid(self) -> RefreshGrid:
        """The instants of the renewals."""
        return self.renewals.grid

    def begin(self, reading: Reading, _: Refresh | None, joules: float) -> list[Knot]:
        """Add the first reading; return its knot if that is certain."""
        return self._add(_present(reading, joules, starts=True), reading.ended_ns)

    def go_on(self, reading: Reading, _: Refresh | None, joules: float) -> list[Knot]:
        """Add a reading; return the knots that are certain with it."""
        return self._add(_present(reading, joules, starts=False), reading.ended_ns)

    def _add(self, knot: Knot, now: int) -> list[Knot]:
        if self._early is not None:
            self._early.append(knot)
            return [] if self.grid.learning(now) else self.release()
        return [self._dated(knot)]

    def release(self) -> list[Knot]:
        """Return the knots that waited for the period."""
        if self._early is None:
            return []
        self.behind_ns = round((self.window_ns + (self.grid.period_ns or 0)) / 2)
        early, self._early = self._early, None
        return [self._dated(knot) for knot in early]

    def _dated(self, knot: Knot) -> Knot:
        return knot._replace(time_ns=knot.time_ns - self.behind_ns)


def _present(reading: Reading, joules: float, *, starts: bool) -> Knot:
    """Return the knot of a value that was true when it was read."""
    took = reading.ended_ns - reading.started_ns
    return Knot((reading.started_ns + reading.ended_ns) // 2, took / 12**0.5, joules, starts)


@dataclass(slots=True)
class _Chain:
    """Readings between which all energy is known.

    Attributes:
        grid: The refresh instants.
        always_fresh: Whether each read shows the present value.
        start_joules: Energy at the first reading, in J.
        first_ns: Clock at the first reading, while its refresh is not known.
        second: The knot after it, which waits for a third.
    """

    grid: RefreshGrid
    always_fresh: bool
    start_joules: float = 0.0
    first_ns: int | None = None
    second: Knot | None = None

    def begin(self, reading: Reading, refresh: Refresh | None, joules: float) -> list[Knot]:
        """Add the first reading, at which the device was seen to refresh or not; return its knot if that is certain."""
        self.start_joules = joules
        if self.always_fresh:
            return [_present(reading, joules, starts=True)]
        if refresh is None:
            self.first_ns = (reading.started_ns + reading.ended_ns) // 2
            return []
        return [Knot(refresh.time_ns, refresh.sigma_ns, joules, starts=True)]

    def go_on(self, _: Reading, refresh: Refresh | None, joules: float) -> list[Knot]:
        """Add a reading; return the knots that are certain with it."""
        if refresh is None:
            return []
        knot = Knot(refresh.time_ns, refresh.sigma_ns, joules, starts=False)
        if self.first_ns is None:
            return [knot]
        if self.second is None:
            self.second = knot
            return []
        return [*self.release(knot.time_ns), knot]

    def release(self, third_ns: int | None = None) -> list[Knot]:
        """Place the first reading's refresh one period before the second, as soon as a third shows the period.

        Without a period, both values are equally old: otherwise the energy between two reads would be that of a shorter time.
        """
        first_ns, second = self.first_ns, self.second
        self.first_ns = self.second = None
        if first_ns is None or second is None:
            return []
        period = self.grid.period_ns or (0 if third_ns is None else third_ns - second.time_ns)
        time_ns = min(first_ns, second.time_ns - round(period)) if period else first_ns - round(second.sigma_ns * 3**0.5)
        return [Knot(time_ns, second.sigma_ns * 2**0.5, self.start_joules, starts=True), second]


class KnotFinder:
    """Derive the knots of one device from its readings.

    Attributes:
        most_watts: More power than this is not believed, in W.
        longest_gap_ns: What lies between two readings further apart than this is not known.
        silent: True while reads fail, or show a counter that does not change.
        unread_ns: Time in which it could not be read, up to the last good reading.
        missing_ns: Part of that which belongs to the run.
        jumps: How often its counter jumped or began anew.
        resets: How often it did so, and energy is missing as the counter did not return.
        reset_ns: Clock at the last of these.
        returned: Whether its counter ever returned to the level from which it had jumped.
        bridged: Whether its own power ever stood in for its counter.
        excess_ns: Time in which it showed more power than it can draw.
        frozen: Whether its counter ever stood still for longer than a device that is on can be without a change.
        renewal: The renewal of its power that the last reading showed, where that is a mean over a known window.
    """

    def __init__(self, device: Device, interval_s: float = 0.0) -> None:
        """Start without readings; the device is read about every ``interval_s`` seconds."""
        self.unread_ns, self.missing_ns = 0, 0.0
        self._outside: Callable[[int], float] = lambda _: 0.0
        self.jumps = self.resets = 0
        self.reset_ns = 0
        self.returned = self.bridged = self.frozen = False
        self.excess_ns = 0
        self._earlier_joules = 0.0
        self.start_chain(device, interval_s)

    def start_chain(self, device: Device, interval_s: float) -> None:
        """Start a new chain of readings; the way in which the device is read may have changed."""
        self._device = device
        self._integrates = device.method == "power_integration"
        self.most_watts = most_watts(device)
        self.longest_gap_ns = max(NS_PER_S, round(3 * max(interval_s, device.min_interval_s) * NS_PER_S))
        self._frozen_ns = max(_FROZEN_NS, round(3 * (device.update_period_s or 0.0) * NS_PER_S))
        self._begin()

    def _begin(self) -> None:
        """Forget all readings: the energy until the next one is unknown."""
        self._counter: EnergyCounter | PowerIntegral = (
            PowerIntegral(self.longest_gap_ns) if self._integrates else EnergyCounter(self._device.wrap_joules, self.most_watts)
        )
        self._sum = (self._earlier_joules, self._counter)
        self._chain = self._new_chain()
        self._suspended: _Chain | _MeansChain | None = None  # after a jump, from which the counter may return at once
        self._suspended_start: list[Knot] = []
        self._standing = 0  # jumps from which the counter may still return
        self._excess_since_ns: int | None = None
        self._value: float | None = None
        self._changed_ns: int | None = None
        self._read_ns: int | None = None
        self.silent = False
        self.renewal: Renewal | None = None

    def begin(self, now: int, outside: Callable[[int], float]) -> None:
        """Begin to read the device: until the first reading, its energy is unknown.

        Args:
            now: Clock in ns.
            outside: Returns the time outside the run up to an instant; both in ns.
        """
        self._read_ns, self._outside = now, outside

    def _new_chain(self) -> _Chain | _MeansChain:
        period, window = self._device.update_period_s, self._device.power_window_s
        if self._integrates:
            return _Chain(RefreshGrid(0), always_fresh=True) if window is None else _MeansChain(window * NS_PER_S)
        return _Chain(RefreshGrid(None if period is None else round(period * NS_PER_S)), period is not None)

    @property
    def grid(self) -> RefreshGrid:
        """Its refresh instants."""
        return self._chain.grid

    @property
    def behind_ns(self) -> int:
        """By how much its knots are dated back, in ns: by half of the time that each reading of power is about."""
        return self._chain.behind_ns if isinstance(self._chain, _MeansChain) else 0

    @property
    def joules(self) -> float:
        """All joules that were seen to pass, in J; what passed in a gap is not among them."""
        earlier, counter = self._sum  # at once: another thread may ask
        return earlier + counter.joules

    def pause(self, now: int) -> list[Knot]:
        """End the chain; return the knots that were waiting for another refresh."""
        self._add_unread(self.silent_since(now), now)
        knots = [*self._give_up(), *self._chain.release()]
        self._earlier_joules = self.joules
        self._begin()
        return knots

    def silent_since(self, now: int) -> int | None:
        """Return the end of the last good reading (ns) if reads have failed since, or none has ended for long; else None.

        Before the first good reading, that is the begin of reading.
        """
        longest = _LATE_NS if self._value is None else self.longest_gap_ns
        overdue = self._read_ns is not None and now - self._read_ns > longest
        return self._read_ns if self.silent or overdue else None

    def unread_at(self, now: int) -> int:
        """Return the time without readings up to now (ns), including a gap that has not ended yet."""
        since = self.silent_since(now)
        return self.unread_ns + (0 if since is None else now - since)

    def missing_at(self, now: int) -> float:
        """Return the part of that time which belongs to the run (ns)."""
        since = self.silent_since(now)
        return self.missing_ns + (0.0 if since is None else self._inside(since, now))

    def _inside(self, since: int, until: int) -> float:
        """Return the time of the run between two instants; all in ns."""
        return max(0.0, until - since - (self._outside(until) - self._outside(since)))

    def add_power(self, time_ns: int, watts: float) -> None:
        """Note the power in W that the device itself reported beside its counter, before the counter's reading is added."""
        if isinstance(self._counter, EnergyCounter):
            self._counter.power = (time_ns, watts)

    def add_reading(self, reading: Reading) -> list[Knot]:
        """Add a reading and return the knots that are certain with it, oldest first."""
        self.renewal = None
        value = self._believed(reading)
        if value is None:
            return []
        knots: list[Knot] = []
        if self.silent and self._device.method != "energy_counter" and self._read_ns is not None:
            self._add_missing(reading)
            knots = self._chain.release()
            self._earlier_joules = self.joules
            self._begin()  # its energy in the meantime is unknown
            self._changed_ns = reading.started_ns
        before = self._value
        step = self._advance(reading, value)
        if before is not None and value != before and not self._integrates:
            self._note_step(step, reading, rises=value > before)
            if step != "reset":
                knots = self._resume(reading) if step == "returned" else self._give_up()
        if step == "reset":
            knots = self._break_chain(reading)
        self._add_unread(self.silent_since(reading.started_ns), reading.started_ns)
        self.silent = False
        if self._suspended is None or value != before:
            self._read_ns = reading.ended_ns  # else it shows the same since a jump
        # Where each read is known to be fresh, an unchanged value means that no energy was used.
        changed = value != before or (isinstance(self._chain, _Chain) and self._chain.always_fresh)
        self._value = value
        means = isinstance(self._chain, _MeansChain)
        refresh = None if means else self.grid.observe(reading.started_ns, reading.ended_ns, changed=changed)
        if step not in {"first", "reset"}:
            if self._suspended is not None:
                return knots
            return [*knots, *self._chain.go_on(reading, refresh, self._counter.joules)]
        start = self._chain.begin(reading, refresh, self._counter.joules)
        if self._suspended is None:
            return [*knots, *start]
        self._suspended_start = start
        return knots

    def _advance(self, reading: Reading, value: float) -> Step:
        """Add a value to the energy; note the renewal that it shows."""
        middle = (reading.started_ns + reading.ended_ns) // 2
        if isinstance(self._counter, EnergyCounter) or isinstance(self._chain, _Chain):
            return self._counter.advance(middle, value)
        renewal = self.renewal = self._chain.renewals.add(reading.started_ns, reading.ended_ns, value)
        return self._counter.advance(middle, value, None if renewal is None else renewal.time_ns)

    def _break_chain(self, reading: Reading) -> list[Knot]:
        """Begin a chain at a reading: the energy since the last good one is unknown, and the refreshes may have moved."""
        self._add_missing(reading)
        broken, self._chain = self._chain, self._new_chain()
        if self._integrates:
            self.renewal = None  # it may have been renewed at any instant since
            return broken.release()
        if self._suspended is None:
            self._suspended = broken
        return []

    def _resume(self, reading: Reading) -> list[Knot]:
        """Continue the chain before a jump, unless knots of the chain since then were released."""
        if self._suspended is not None:
            self._add_missing(reading)
            self._chain, self._suspended = self._suspended, None
        return []

    def _give_up(self) -> list[Knot]:
        """End the chain before a jump: the counter goes on from its new level. Return what waited for that."""
        if self._suspended is None:
            return []
        knots = [*self._suspended.release(), *self._suspended_start]
        self._suspended = None
        return knots

    def _add_missing(self, reading: Reading) -> None:
        """Add the time since the last good reading, as there was none up to this one."""
        self._add_unread(self._read_ns, reading.started_ns)
        self._read_ns, self.silent = None, False

    def _add_unread(self, since: int | None, until: int) -> None:
        """Add the time between two instants (ns) to that without readings; nothing if the first is None."""
        if since is not None:
            self.unread_ns += until - since
            self.missing_ns += self._inside(since, until)

    def _believed(self, reading: Reading) -> float | None:
        """Return the value if it is plausible; else record the start of a gap and return None."""
        value = reading.value
        if value is not None and self._integrates:
            self._note_excess(reading.started_ns, exceeds=self.most_watts < value < inf)
        if value is None or not isfinite(value) or (self._integrates and not 0 <= value <= self.most_watts):
            self.silent = True
            if self._read_ns is None:
                self._read_ns = reading.started_ns
            return None
        if value != self._value or self._changed_ns is None or self._integrates or self._device.provenance == "estimated":
            self._changed_ns = reading.started_ns
        elif reading.started_ns - self._changed_ns > self._frozen_ns:
            if not self.silent:
                self._read_ns = self._changed_ns
            self.frozen = self.silent = True
            return None
        return value

    def _note_step(self, step: Step, reading: Reading, *, rises: bool) -> None:
        """Note what became of the counter at a reading; ``rises`` says that it shows more than before."""
        jumps = step in {"reset", "bridged"}
        self._note_excess(reading.started_ns, exceeds=jumps and rises)
        self.jumps += jumps or step == "returned"
        if step == "reset":
            self.resets += 1
            self._standing += 1
            self.reset_ns = reading.ended_ns
        elif step == "bridged":
            self.bridged = True
        elif step == "returned":
            self.returned = True
            self.resets -= self._standing
            self._standing = 0

    def _note_excess(self, time_ns: int, *, exceeds: bool) -> None:
        """Add the time between two readings that both show more power than the device can draw."""
        if exceeds and self._excess_since_ns is not None:
            self.excess_ns += time_ns - self._excess_since_ns
        self._excess_since_ns = time_ns if exceeds else None
