"""Readings of one device -> knots of its cumulative energy; pure."""

from math import isfinite
from typing import NamedTuple

from ml_energy_callbacks.attribution.counters import MAX_WATTS, EnergyCounter, PowerIntegral
from ml_energy_callbacks.attribution.refresh_grid import RefreshGrid
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


_FROZEN_NS = 5 * NS_PER_S
"""A working counter of a device that is on changes far more often; one that does not change for this long is frozen."""


class KnotFinder:
    """Derive the knots of one device from its readings.

    Attributes:
        grid: Its refresh instants.
        silent: True while reads fail or the counter does not change.
        longest_gap_ns: The energy between two readings that are further apart than this is unknown.
        missing_ns: Time in which it could not be read, up to the last good reading.
        resets: Number of times that the counter jumped or was reset, so that energy is missing.
        frozen: Whether the counter was ever unchanged for longer than is possible while the device is on.
    """

    def __init__(self, device: Device, interval_s: float = 0.0) -> None:
        """Start without readings; the device is read about every ``interval_s`` seconds."""
        self.missing_ns = 0
        self.resets = 0
        self.frozen = False
        self._earlier_joules = 0.0
        self.start_chain(device, interval_s)

    def start_chain(self, device: Device, interval_s: float) -> None:
        """Start a new chain of readings; the way in which the device is read may have changed."""
        self._device = device
        self._integrates = device.method == "power_integration"
        self.longest_gap_ns = max(NS_PER_S, round(3 * max(interval_s, device.min_interval_s) * NS_PER_S))
        self._frozen_ns = max(_FROZEN_NS, round(3 * (device.update_period_s or 0.0) * NS_PER_S))
        self._begin()

    def _begin(self) -> None:
        """Clear the chain: the next reading is a first reading."""
        device = self._device
        period = 0.0 if self._integrates else device.update_period_s
        self._always_fresh = period is not None
        self.grid = RefreshGrid(None if period is None else round(period * NS_PER_S))
        self._counter: EnergyCounter | PowerIntegral = (
            PowerIntegral(self.longest_gap_ns)
            if self._integrates
            else EnergyCounter(device.wrap_joules, MAX_WATTS[device.kind])
        )
        self._chain = (self._earlier_joules, self._counter)
        self._value: float | None = None
        self._changed_ns: int | None = None
        self._read_ns: int | None = None
        self.silent = False
        self._first_ns: int | None = None
        self._second: Knot | None = None

    @property
    def joules(self) -> float:
        """Energy measured so far in J, without the energy used in gaps."""
        earlier, counter = self._chain  # in one step, because another thread may read it
        return earlier + counter.joules

    def pause(self, now: int) -> list[Knot]:
        """End the chain; return the knots that were waiting for another refresh."""
        self.missing_ns = self.missing_at(now)
        knots = self._release(None)
        self._earlier_joules = self.joules
        self._begin()
        return knots

    def silent_since(self, now: int) -> int | None:
        """Return the end of the last good reading (ns) if reads have failed since, or none has ended for long; else None."""
        overdue = self._read_ns is not None and now - self._read_ns > self.longest_gap_ns
        return self._read_ns if self.silent or overdue else None

    def missing_at(self, now: int) -> int:
        """Return the time without readings up to now (ns), including a gap that has not ended yet."""
        since = self.silent_since(now)
        return self.missing_ns + (0 if since is None else now - since)

    def add_reading(self, reading: Reading) -> list[Knot]:  # noqa: PLR0911 - one for each case
        """Add a reading and return the knots that it makes certain, oldest first."""
        value = self._believed(reading)
        if value is None:
            return []
        middle = (reading.started_ns + reading.ended_ns) // 2
        if self.silent and self._device.method != "energy_counter" and self._read_ns is not None:
            return self._restart(reading)  # its energy in the meantime is unknown
        step = self._counter.advance(middle, value)
        if step == "reset":
            self.resets += not self._integrates
            return self._restart(reading)
        self.missing_ns = self.missing_at(reading.started_ns)
        self.silent = False
        self._read_ns = reading.ended_ns
        # If each read is known to be up to date, an unchanged value means that no energy was used.
        changed = self._always_fresh or value != self._value
        self._value = value
        refresh = self.grid.observe(reading.started_ns, reading.ended_ns, changed=changed)
        if step == "first":
            if self._always_fresh:
                return [Knot(middle, (reading.ended_ns - reading.started_ns) / 12**0.5, 0.0, starts=True)]
            if refresh is None:
                self._first_ns = middle
                return []
            return [Knot(refresh.time_ns, refresh.sigma_ns, 0.0, starts=True)]
        if refresh is None:
            return []
        knot = Knot(refresh.time_ns, refresh.sigma_ns, self._counter.joules, starts=False)
        if self._first_ns is None:
            return [knot]
        if self._second is None:
            self._second = knot
            return []
        return [*self._release(knot.time_ns), knot]

    def _release(self, third_ns: int | None) -> list[Knot]:
        """Place the first reading's refresh one period before the second refresh, once a third one shows the period."""
        first_ns, second = self._first_ns, self._second
        self._first_ns = self._second = None
        if first_ns is None or second is None:
            return []
        period = self.grid.period_ns or (0 if third_ns is None else third_ns - second.time_ns)
        time_ns = min(first_ns, second.time_ns - round(period)) if period else first_ns
        return [Knot(time_ns, second.sigma_ns * 2**0.5, 0.0, starts=True), second]

    def _believed(self, reading: Reading) -> float | None:
        """Return the value if it is plausible; else record the start of a gap and return None."""
        value = reading.value
        nonsense = value is not None and not (
            isfinite(value) and (not self._integrates or 0 <= value <= MAX_WATTS[self._device.kind])
        )
        if value is None or nonsense:
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

    def _restart(self, reading: Reading) -> list[Knot]:
        """Restart the chain: the energy since the last good reading is unknown, and the refreshes may have shifted."""
        knots = self._release(None)
        missing = self.missing_ns + (reading.started_ns - self._read_ns if self._read_ns is not None else 0)
        self._earlier_joules = self.joules
        self._begin()
        self.missing_ns = missing
        return [*knots, *self.add_reading(reading)]
