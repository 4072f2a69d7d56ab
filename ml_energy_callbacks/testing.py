"""Public fakes: a manual clock, a scripted power curve, a counter and a power meter over it.

With these a whole run, refresh grids and all, plays under a clock that the test moves: no thread, no hardware, no waiting.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ml_energy_callbacks.clock import NS_PER_S, Clock
from ml_energy_callbacks.exceptions import ReadError
from ml_energy_callbacks.readings import Device


class ManualClock:
    """A monotonic clock that moves only when told to.

    Attributes:
        now_ns: What it shows, in ns.
    """

    def __init__(self, now_ns: int = NS_PER_S) -> None:
        """Start at ``now_ns``."""
        self.now_ns = now_ns

    def __call__(self) -> int:
        """Return the time in ns."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds."""
        self.now_ns += round(seconds * NS_PER_S)


class PowerCurve:
    """A device's true power: constant between the instants at which it is set, its integral known exactly."""

    def __init__(self, clock: Clock, watts: float = 0.0) -> None:
        """Draw ``watts`` from now on, and all the time before."""
        self._clock = clock
        self._times = [clock()]
        self._watts = [watts]
        self._joules = [0.0]

    def set(self, watts: float) -> None:
        """Draw ``watts`` from now on."""
        now = self._clock()
        self._joules.append(self.joules(now))
        self._watts.append(watts)
        self._times.append(now)  # last: another thread finds its place by it

    def _place(self, time_ns: int) -> int:
        return max(0, bisect_right(self._times, time_ns) - 1)

    def watts(self, time_ns: int | None = None) -> float:
        """Return the power in W at an instant (default: now)."""
        return self._watts[self._place(self._clock() if time_ns is None else time_ns)]

    def joules(self, time_ns: int | None = None) -> float:
        """Return the energy in J from the start of the curve to an instant (default: now); below zero before it."""
        time_ns = self._clock() if time_ns is None else time_ns
        place = self._place(time_ns)
        return self._joules[place] + self._watts[place] * (time_ns - self._times[place]) / NS_PER_S


_DEVICE = Device(
    id="scripted:0",
    name="Scripted device",
    kind="gpu",
    backend="scripted",
    method="energy_counter",
    provenance="measured",
    relative_uncertainty=0.0,
)

_POWER_DEVICE = replace(_DEVICE, id="scripted:power", method="power_integration")


@dataclass(slots=True)
class ScriptedCounter:
    """A source that counts the joules of a curve, refreshed on a grid.

    Attributes:
        curve: The true power.
        clock: The clock that the reader of this source goes by.
        period_s: Refresh period in s; 0 for a counter that is always up to date.
        offset_s: Instant of some refresh, in s of the clock.
        resolution_joules: The value is rounded down to a multiple of this.
        start_joules: Value of the counter where the curve begins.
        failing: While True, reads raise ReadError.
        device: What it says it is.
    """

    curve: PowerCurve
    clock: Clock
    period_s: float = 0.1
    offset_s: float = 0.0
    resolution_joules: float = 0.001
    start_joules: float = 1000.0
    failing: bool = False
    device: Device = _DEVICE

    def read(self) -> float:
        """Return the cumulative joules as of the last refresh; raises ReadError while failing."""
        if self.failing:
            msg = "scripted failure"
            raise ReadError(msg)
        now = self.clock()
        if self.period_s:
            period, offset = self.period_s * NS_PER_S, self.offset_s * NS_PER_S
            now = int((now - offset) // period * period + offset)
        joules = self.start_joules + self.curve.joules(now)
        if self.device.wrap_joules is not None:
            joules %= self.device.wrap_joules
        return joules // self.resolution_joules * self.resolution_joules

    def close(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class ScriptedPower:
    """A source that tells the watts of a curve; attributes as in :class:`ScriptedCounter`."""

    curve: PowerCurve
    clock: Clock
    failing: bool = False
    device: Device = _POWER_DEVICE

    def read(self) -> float:
        """Return the power in W now; raises ReadError while failing."""
        if self.failing:
            msg = "scripted failure"
            raise ReadError(msg)
        return self.curve.watts(self.clock())

    def close(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class ScriptedBackend:
    """A backend with the sources that it is given."""

    sources: Sequence[ScriptedCounter | ScriptedPower]
    name: str = "scripted"

    def open(self) -> Sequence[ScriptedCounter | ScriptedPower]:
        """Return the sources."""
        return self.sources
