"""Devices whose energy is known, however late a busy machine does the work: steady power, and power in pulses."""

import time

from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
from ml_energy_callbacks.testing.curves import refreshed

IDLE_WATTS = 0.1  # a counter that stands still is not trusted
_PERIOD_S = 0.02
_LONGEST_S = 60


def steady(watts: float) -> ScriptedBackend:
    """Return the backend of a device that always draws these watts."""
    return ScriptedBackend([ScriptedCounter(PowerCurve(monotonic_clock, watts), monotonic_clock, period_s=_PERIOD_S)])


class Pulses:
    """A curve of power that is drawn for some time after an instant, however long that takes; else next to none."""

    def __init__(self, watts: float) -> None:
        """Draw these watts in pulses, and next to nothing from now until the first."""
        self._watts = watts
        self._made_ns = monotonic_clock()
        self._begins: list[int] = []
        self._lengths: list[int] = []

    def work(self, seconds: float) -> None:
        """Draw power for so long from now on, and wait until then at least; what was drawn before has ended."""
        self._begins.append(monotonic_clock())
        self._lengths.append(round(seconds * NS_PER_S))
        time.sleep(seconds)

    def watts(self, time_ns: int) -> float:
        """Return the power in W at an instant."""
        pulses = zip(self._begins, self._lengths, strict=False)  # another thread adds some
        return IDLE_WATTS + self._watts * any(0 <= time_ns - begin < length for begin, length in pulses)

    def joules(self, time_ns: int) -> float:
        """Return the energy in J up to an instant."""
        pulses = zip(self._begins, self._lengths, strict=False)
        drawn = self._watts * sum(min(max(0, time_ns - begin), length) for begin, length in pulses)
        return (drawn + IDLE_WATTS * (time_ns - self._made_ns)) / NS_PER_S


class PulseCounter(ScriptedCounter):
    """A counter that knows of which instant its last reading was."""

    def __init__(self, pulses: Pulses) -> None:
        """Count the joules of these pulses."""
        super().__init__(pulses, monotonic_clock, period_s=_PERIOD_S)
        self._read_ns = 0

    def read(self) -> float:
        """Return the joules as of the last refresh."""
        instant = refreshed(self.clock(), self.period_s)
        joules = super().read()
        self._read_ns = instant
        return joules

    def wait_for_a_reading(self) -> None:
        """Wait until the counter has been read after all that was drawn."""
        now = monotonic_clock()
        while self._read_ns < now:
            assert monotonic_clock() < now + _LONGEST_S * NS_PER_S
            time.sleep(0.001)
