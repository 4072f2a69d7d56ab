"""Raw values of a device -> cumulative joules that never decrease; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal

from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.readings import Device, Kind

MAX_WATTS: Mapping[Kind, float] = {"cpu": 3e3, "dram": 1e3, "gpu": 5e3, "tpu": 2e3, "soc": 5e3, "board": 50e3}
"""Upper bound on the power of one device of each kind in W: a counter that runs faster was reset or is broken. Our assumption:
several times the rated power of the largest devices of 2025 (GPU 1.2 kW, superchip 2.7 kW, processor 0.5 kW)."""

_LIMIT_FACTOR = 2.0
"""A device's own limit holds on average over a second or so; power that is above this many times the limit is not believed."""

_FIRST_NS = NS_PER_S
"""A counter's first change may include the energy of a whole refresh period before the first read; at most that of a second."""

_LONG_NS = 10 * NS_PER_S
"""A counter that was not read for this long may have wrapped more than once."""

_SHORTEST_NS = 10_000_000
"""A refresh may be late by so much."""

_LATEST_NS = NS_PER_S
"""A power that was read longer ago says nothing about now."""

_ROUNDING = 1e-6
"""In J: less than any counter resolves, and more than floats lose."""

Step = Literal["first", "normal", "wrapped", "reset", "bridged", "returned"]


def most_watts(device: Device) -> float:
    """Return the highest power of a device that is believed, in W: by its own limit or, without one, by its kind."""
    limit = device.max_watts
    return _LIMIT_FACTOR * limit if limit is not None and 0 < limit < inf else MAX_WATTS[device.kind]


@dataclass(slots=True)
class EnergyCounter:
    """Unwrap a counter of joules.

    A value that the device cannot have reached moves the counter to another level. If it comes back to the old level, as after
    a single reading of zero, the energy is the old level's, and none is lost or counted twice.

    Attributes:
        wrap_joules: Modulus of the counter in J, or None where it does not wrap.
        max_watts: A difference that would take more than this, in W, is no energy.
        power: The latest power in W that the device itself reported, and when, by the monotonic clock; None where it does not.
        joules: Sum of all differences so far, in J.
    """

    wrap_joules: float | None = None
    max_watts: float = max(MAX_WATTS.values())
    power: tuple[int, float] | None = None
    joules: float = 0.0
    _value: float | None = None
    _read_ns: int = 0
    _changed_ns: int = 0
    _since_ns: int | None = None
    """The value was refreshed after this instant; None before its first change."""
    _offset: float = 0.0
    """By how much the present level is above the old one, in J, less the energy in ``_bridged``."""
    _hidden_ns: int = 0
    """Time whose energy the jumps from the old level hide; 0 on the old level."""
    _bridged: float = 0.0
    """What was added for that time, in J."""
    _recent_watts: float = 0.0
    """Mean power of the last second or so, by the counter itself."""
    _earlier: tuple[float, float, int] | None = None
    """Value and joules before its last change, and an instant before that value's refresh."""
    _debt: float = 0.0
    """Joules of a value that was too high for a moment: they are counted already."""

    def advance(self, time_ns: int, value: float) -> Step:  # noqa: PLR0911 - one for each case
        """Take the next value and say what it was.

        After ``reset`` the joules since the previous value are unknown and were not added. After ``bridged`` they are those of
        the device's power. After ``returned`` those of the jumps from the old level are known and were added, too.

        Args:
            time_ns: Monotonic clock at the read.
            value: Cumulative joules as read.
        """
        before, self._value = self._value, value
        read_ns, self._read_ns = self._read_ns, time_ns
        if before is None:
            self._changed_ns = time_ns
            return "first"
        if value == before:
            return "normal"
        # All that was drawn since the last change may come at once, and the last change was seen late.
        elapsed = max(time_ns - read_ns, _FIRST_NS) if self._since_ns is None else time_ns - self._since_ns
        passed = time_ns - self._changed_ns
        earlier, self._earlier = self._earlier, (before, self.joules, time_ns - elapsed)
        self._since_ns, self._changed_ns = read_ns, time_ns
        if self.wrap_joules is not None and time_ns - read_ns > _LONG_NS and self._most(elapsed) >= self.wrap_joules:
            self._settle()
            return "reset"  # it may have wrapped any number of times
        difference = value - before
        # The joules since then if the counter goes on from its present level, and if it is back on the old one.
        fresh, back = self._rise(difference, 0.0), self._rise(difference + self._offset, self._bridged + _ROUNDING)
        goes_on = 0 <= fresh <= self._most(elapsed)
        watts = self._watts(time_ns)
        if self._hidden_ns and back <= self._most(elapsed + self._hidden_ns) and -back <= self._bridged + _ROUNDING:
            expected = (self._recent_watts if watts is None else watts) * passed / NS_PER_S
            if not goes_on or abs(back - expected) < abs(fresh - expected):
                self._add(max(0.0, back))
                self._settle()
                return "returned"
        if goes_on:
            self._add(fresh)
            if passed:  # else it corrects what was read at the same instant, by a clock that is rounded
                self._recent_watts += (fresh * NS_PER_S / passed - self._recent_watts) * min(1.0, passed / _LATEST_NS)
            return "normal" if difference >= 0 else "wrapped"
        if difference < 0 and earlier is not None and 0 <= value - earlier[0] <= self._most(time_ns - earlier[2]):
            self._debt += self.joules - earlier[1] - (value - earlier[0])
            return "normal"  # the value before was too high
        self._hidden_ns += elapsed
        if watts is None:
            self._offset += difference
            return "reset"
        energy = watts * passed / NS_PER_S
        self._add(energy)
        self._bridged += energy
        self._offset += difference - energy
        return "bridged"

    def _add(self, joules: float) -> None:
        paid = min(self._debt, joules)
        self._debt -= paid
        self.joules += joules - paid

    def _most(self, elapsed_ns: int) -> float:
        return self.max_watts * max(elapsed_ns, _SHORTEST_NS) / NS_PER_S

    def _rise(self, joules: float, below: float) -> float:
        """Return a difference without the counter's wrap, unless it is below 0 by this much at most."""
        return joules if self.wrap_joules is None or -below <= joules < 0 else joules % self.wrap_joules

    def _watts(self, time_ns: int) -> float | None:
        return self.power[1] if self.power is not None and time_ns - self.power[0] <= _LATEST_NS else None

    def _settle(self) -> None:
        """Make the present level the one that counts."""
        self._offset, self._hidden_ns, self._bridged = 0.0, 0, 0.0


@dataclass(slots=True)
class PowerIntegral:
    """Integrate readings of power; each holds until the next one.

    Attributes:
        max_gap_ns: Readings further apart than this are not joined: the time between them is a gap.
        joules: The integral so far, in J.
    """

    max_gap_ns: int = NS_PER_S
    joules: float = 0.0
    _watts: float | None = None
    _time_ns: int = 0

    def advance(self, time_ns: int, watts: float, renewed_ns: int | None = None) -> Step:
        """Add the next power, and return how it relates to the previous one; at ``reset``, the time between them is a gap.

        Args:
            time_ns: Monotonic clock at the read.
            watts: Power as read, in W.
            renewed_ns: When it was renewed; None where that is unknown: midway between the two reads.
        """
        before, self._watts = self._watts, watts
        elapsed = time_ns - self._time_ns
        fresh = elapsed / 2 if renewed_ns is None else min(max(0, time_ns - renewed_ns), elapsed)
        self._time_ns = time_ns
        if before is None:
            return "first"
        if elapsed > self.max_gap_ns:
            return "reset"
        self.joules += (before * (elapsed - fresh) + watts * fresh) / NS_PER_S
        return "normal"
