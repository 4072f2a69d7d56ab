"""Sources that follow a power curve without hardware, and a backend that returns them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ml_energy_callbacks.clock import Clock
from ml_energy_callbacks.exceptions import ReadError
from ml_energy_callbacks.readings import Device, Source
from ml_energy_callbacks.testing.curves import Curve, refreshed

SCRIPTED_DEVICE = Device(
    id="scripted:0",
    name="Scripted device",
    kind="gpu",
    backend="scripted",
    method="energy_counter",
    provenance="measured",
    relative_uncertainty=0.0,
    latency_s=0.0,
    latency_source="known",
)

_POWER_DEVICE = replace(SCRIPTED_DEVICE, id="scripted:power", method="power_integration")


@dataclass(slots=True)
class ScriptedCounter:
    """A source that counts the joules of a curve and refreshes on a grid.

    Attributes:
        curve: The true power.
        clock: The clock, which the reader of this source uses as well.
        period_s: Refresh period in s; 0 for a counter that is always up to date.
        offset_s: Instant of any refresh, in s of the clock.
        resolution_joules: The value is rounded down to a multiple of this.
        start_joules: Value of the counter at the start of the curve.
        failing: While True, reads raise ReadError.
        device: Its description.
    """

    curve: Curve
    clock: Clock
    period_s: float = 0.1
    offset_s: float = 0.0
    resolution_joules: float = 0.001
    start_joules: float = 1000.0
    failing: bool = False
    device: Device = SCRIPTED_DEVICE

    def read(self) -> float:
        """Return the cumulative joules as of the last refresh; raises ReadError while failing."""
        if self.failing:
            msg = "scripted failure"
            raise ReadError(msg)
        joules = self.start_joules + self.curve.joules(refreshed(self.clock(), self.period_s, self.offset_s))
        if self.device.wrap_joules is not None:
            joules %= self.device.wrap_joules
        return joules // self.resolution_joules * self.resolution_joules

    def close(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class ScriptedPower:
    """A source that reports the watts of a curve; attributes as in :class:`ScriptedCounter`."""

    curve: Curve
    clock: Clock
    failing: bool = False
    device: Device = _POWER_DEVICE

    def read(self) -> float:
        """Return the present power in W; raises ReadError while failing."""
        if self.failing:
            msg = "scripted failure"
            raise ReadError(msg)
        return self.curve.watts(self.clock())

    def close(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class ScriptedBackend:
    """A backend with given sources."""

    sources: Sequence[Source]
    name: str = "scripted"

    def open(self) -> Sequence[Source]:
        """Return the sources."""
        return self.sources
