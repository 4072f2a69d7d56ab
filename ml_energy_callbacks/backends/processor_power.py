"""Power of processors at a load, by microarchitecture, from published measurements of servers; pure.

The measurements are of whole servers at the wall. What remains without ``WATTS_PER_GB`` of memory is the processors' part: it
includes fans and losses of the power supply, which a server with more processors has more of.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ml_energy_callbacks.backends.drivers.cpuinfo import Processors
from ml_energy_callbacks.codecarbon_data import Microarchitecture

WATTS_PER_GB = 0.15
"""Power of memory: RAPL counts 0.04 W/GB for idle DDR4, and up to 0.4 while all of its bandwidth is used; this is near their
geometric mean."""

PROCESSOR_SHARE = 0.85
"""Our assumption: the processors' share of a server's power without its memory. Supplies lose about 8 % of it, and the rest is
for fans, disks and the network."""

UNKNOWN_PART = 0.1
"""Added to the uncertainty where only the microarchitecture is known: parts with few cores draw more for each thread."""

_LOWEST = 0.1
"""Load from which on the uncertainty is that of a working processor."""


@dataclass(frozen=True, slots=True)
class LoadPower:
    """Power of processors by their load.

    Attributes:
        watts: Power at 0, 10 ... 100 % load in W, without memory.
        memory_watts: Power of the memory in W.
        idle_uncertainty: Half-width of the 95 % interval at no load, as a share of the power.
        load_uncertainty: The same under load.
    """

    watts: Sequence[float]
    memory_watts: float
    idle_uncertainty: float
    load_uncertainty: float

    def at(self, load: float) -> float:
        """Return the power in W at a load between 0 and 1."""
        index = min(int(load * 10), 9)
        return self.memory_watts + self.watts[index] + (self.watts[index + 1] - self.watts[index]) * (load * 10 - index)

    def uncertainty(self, load: float) -> float:
        """Return the half-width of the 95 % interval at a load between 0 and 1, as a share of the power."""
        idle = max(0.0, 1 - load / _LOWEST)
        return self.load_uncertainty + (self.idle_uncertainty - self.load_uncertainty) * idle

    def scaled(self, share: float) -> "LoadPower":
        """Return the power of a share of the machine."""
        return replace(self, watts=[share * watts for watts in self.watts], memory_watts=share * self.memory_watts)

    def widened(self, by: float) -> "LoadPower":
        """Return the same power, less certain; nothing is less certain than a factor of two."""
        idle, load = (min(1.0, known + by) for known in (self.idle_uncertainty, self.load_uncertainty))
        return replace(self, idle_uncertainty=idle, load_uncertainty=load)

    def processors_alone(self) -> "LoadPower":
        """Return the power of the processors without memory, fans and losses, where the memory is measured."""
        return replace(self, watts=[PROCESSOR_SHARE * watts for watts in self.watts], memory_watts=0.0)


def estimate_power(row: Microarchitecture, *, threads: int, tdp_watts: float | None, gigabytes: float | None) -> LoadPower:
    """Return the power of hardware threads and their memory.

    Args:
        row: Their microarchitecture.
        threads: Number of hardware threads.
        tdp_watts: Thermal design power of these threads in W; None if the part is unknown.
        gigabytes: Memory in GB; None if it is unknown, for as much as the published servers have.
    """
    size = threads if tdp_watts is None else tdp_watts / row.tdp_per_thread
    memory = WATTS_PER_GB * (threads * row.gb_per_thread if gigabytes is None else gigabytes)
    power = LoadPower([size * watts for watts in row.watts], memory, row.idle_uncertainty, row.load_uncertainty)
    if tdp_watts is not None:
        return power
    return power.widened(UNKNOWN_PART if row.vendor else 1.0)


def find_microarchitecture(rows: Iterable[Microarchitecture], processors: Processors) -> Microarchitecture | None:
    """Return the microarchitecture of a machine's processors, as CPUID numbers it; None if it is not among the rows."""
    for row in rows:
        first, last = row.steppings
        if (
            (row.vendor, row.family) == (processors.vendor, processors.family)
            and processors.model in row.models
            and (processors.stepping < 0 or first <= processors.stepping <= last)
        ):
            return row
    return None


def typical_server(rows: Iterable[Microarchitecture]) -> Microarchitecture:
    """Return the row for processors of an unknown microarchitecture."""
    return next(row for row in rows if not row.vendor)
