"""From raw values of a device to joules that only grow; pure."""

from dataclasses import dataclass, field
from typing import Literal

from ml_energy_callbacks.clock import NS_PER_S

MAX_WATTS = 20_000.0
"""More than this no single device draws: a counter that runs faster was reset or is broken."""

Step = Literal["first", "normal", "wrapped", "reset"]


@dataclass(slots=True)
class EnergyCounter:
    """Unwrap a counter of joules.

    Attributes:
        wrap_joules: Modulus of the counter in J, or None where it does not wrap.
        joules: Sum of all differences so far, in J.
    """

    wrap_joules: float | None = None
    joules: float = 0.0
    _value: float | None = None
    _time_ns: int = 0

    def advance(self, time_ns: int, value: float) -> Step:
        """Take the next value and say what it was.

        After ``reset`` the joules since the previous value are unknown and were not added.

        Args:
            time_ns: Monotonic clock at the read.
            value: Cumulative joules as read.
        """
        before, self._value = self._value, value
        limit = MAX_WATTS * max(time_ns - self._time_ns, 50_000_000) / NS_PER_S
        self._time_ns = time_ns
        if before is None:
            return "first"
        difference = value - before
        step: Step = "normal"
        if difference < 0 and self.wrap_joules is not None:
            difference += self.wrap_joules
            step = "wrapped"
        if not 0 <= difference <= limit:
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

    max_gap_ns: int = field(default=NS_PER_S)
    joules: float = 0.0
    _watts: float | None = None
    _time_ns: int = 0

    def advance(self, time_ns: int, watts: float) -> Step:
        """Take the next power and say what it was; after ``reset`` the time since the previous one was a gap.

        Args:
            time_ns: Monotonic clock at the read.
            watts: Power as read, in W.
        """
        before, self._watts = self._watts, watts
        elapsed = time_ns - self._time_ns
        self._time_ns = time_ns
        if before is None:
            return "first"
        if elapsed > self.max_gap_ns or not 0 <= watts <= MAX_WATTS:
            return "reset"
        self.joules += (before + watts) / 2 * elapsed / NS_PER_S
        return "normal"
