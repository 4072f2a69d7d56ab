"""Devices whose energy is known even if a busy machine does the work late: constant power, and power in pulses."""

import time

from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
from ml_energy_callbacks.testing.curves import refreshed

IDLE_WATTS = 0.1  # a counter that does not change counts as frozen
REFRESH_S = 0.02
EXTRAPOLATED_S = 0.25
"""A reading is added to the ledger within 0.2 s, and the next one is read 0.05 s later: energy since then is extrapolated."""
_HELD_S = 0.3
_LONGEST_S = 60


def steady(watts: float) -> ScriptedBackend:
    """Return the backend of a device with constant power."""
    return ScriptedBackend([ScriptedCounter(PowerCurve(monotonic_clock, watts), monotonic_clock, period_s=REFRESH_S)])


class Pulses:
    """A power curve with pulses of a fixed length, however long the work takes; almost no power between them."""

    def __init__(self, watts: float) -> None:
        """Set the power of the pulses; until the first one there is almost no power."""
        self._watts = watts
        self._made_ns = monotonic_clock()
        self._begins: list[int] = []
        self._lengths: list[int] = []

    def work(self, seconds: float) -> None:
        """Start a pulse of this length now, and wait at least until it ends."""
        self._begins.append(monotonic_clock())
        self._lengths.append(round(seconds * NS_PER_S))
        time.sleep(seconds)

    def watts(self, time_ns: int) -> float:
        """Return the power in W at an instant."""
        pulses = zip(self._begins, self._lengths, strict=False)  # another thread may be adding one
        return IDLE_WATTS + self._watts * any(0 <= time_ns - begin < length for begin, length in pulses)

    def joules(self, time_ns: int) -> float:
        """Return the energy in J up to an instant."""
        pulses = zip(self._begins, self._lengths, strict=False)
        drawn = self._watts * sum(min(max(0, time_ns - begin), length) for begin, length in pulses)
        return (drawn + IDLE_WATTS * (time_ns - self._made_ns)) / NS_PER_S


class PulseCounter(ScriptedCounter):
    """A counter that records the instant of its last reading."""

    def __init__(self, pulses: Pulses) -> None:
        """Count the energy of these pulses."""
        super().__init__(pulses, monotonic_clock, period_s=REFRESH_S)
        self._read_ns = 0

    def read(self) -> float:
        """Return the joules as of the last refresh."""
        instant = refreshed(self.clock(), self.period_s)
        joules = super().read()
        self._read_ns = instant
        return joules

    def wait_for_a_reading(self) -> None:
        """Wait until a reading after the last pulse is in the ledger, before which it may be held back for a while."""
        until = monotonic_clock() + round(_HELD_S * NS_PER_S)
        while self._read_ns < until:
            assert monotonic_clock() < until + _LONGEST_S * NS_PER_S
            time.sleep(0.001)
