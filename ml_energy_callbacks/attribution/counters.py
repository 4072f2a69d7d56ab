"""Raw values of a device -> cumulative joules that never decrease; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.readings import Kind

MAX_WATTS: Mapping[Kind, float] = {"cpu": 3e3, "dram": 1e3, "gpu": 5e3, "tpu": 2e3, "soc": 5e3, "board": 50e3}
"""Upper bound on the power of one device of each kind in W: a counter that runs faster was reset or is broken. Our assumption:
several times the rated power of the largest devices of 2025 (GPU 1.2 kW, superchip 2.7 kW, processor 0.5 kW)."""

_FIRST_NS = NS_PER_S
"""A counter's first change may include the energy of a whole refresh period before the first read; at most that of a second."""

_LONG_NS = 10 * NS_PER_S
"""A counter that was not read for this long may have wrapped more than once."""

_SHORTEST_NS = 50_000_000
"""Least time assumed between two changes: two refreshes may be detected closer to each other than they happened."""

Step = Literal["first", "normal", "wrapped", "reset"]


@dataclass(slots=True)
class EnergyCounter:
    """Unwrap a counter of joules.

    Attributes:
        wrap_joules: Modulus of the counter in J, or None where it does not wrap.
        max_watts: A difference that implies more power than this, in W, is not energy.
        joules: Sum of all differences so far, in J.
    """

    wrap_joules: float | None = None
    max_watts: float = max(MAX_WATTS.values())
    joules: float = 0.0
    _value: float | None = None
    _read_ns: int = 0
    _changed_ns: int | None = None

    def advance(self, time_ns: int, value: float) -> Step:
        """Add the next value, and return how it relates to the previous one.

        A counter that decreased was reset, unless it can wrap and the energy of a wrap is plausible. After ``reset``, the
        joules since the previous value are unknown and are not added.

        Args:
            time_ns: Monotonic clock at the read.
            value: Cumulative joules as read.
        """
        before, self._value = self._value, value
        unread, self._read_ns = time_ns - self._read_ns, time_ns
        if before is None:
            return "first"
        if value == before:
            return "normal"
        # All energy since the last change may be added at once.
        elapsed = max(unread, _FIRST_NS) if self._changed_ns is None else time_ns - self._changed_ns
        self._changed_ns = time_ns
        most = self.max_watts * max(elapsed, _SHORTEST_NS) / NS_PER_S
        difference = value - before
        step: Step = "normal"
        if self.wrap_joules is not None:
            if unread > _LONG_NS and most >= self.wrap_joules:
                return "reset"  # it may have wrapped any number of times
            if difference < 0:
                difference += self.wrap_joules
                step = "wrapped"
        if not 0 <= difference <= most:
            return "reset"
        self.joules += difference
        return step


@dataclass(slots=True)
class PowerIntegral:
    """Integrate readings of power by the trapezoidal rule.

    Attributes:
        max_gap_ns: Readings further apart than this are not joined: the time between them is a gap.
        joules: The integral so far, in J.
    """

    max_gap_ns: int = NS_PER_S
    joules: float = 0.0
    _watts: float | None = None
    _time_ns: int = 0

    def advance(self, time_ns: int, watts: float) -> Step:
        """Add the next power, and return how it relates to the previous one; at ``reset``, the time between them is a gap.

        Args:
            time_ns: Monotonic clock at the read.
            watts: Power as read, in W.
        """
        before, self._watts = self._watts, watts
        elapsed = time_ns - self._time_ns
        self._time_ns = time_ns
        if before is None:
            return "first"
        if elapsed > self.max_gap_ns:
            return "reset"
        self.joules += (before + watts) / 2 * elapsed / NS_PER_S
        return "normal"
