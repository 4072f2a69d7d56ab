"""Power model of the memory, for machines that measure the power of their processors but not of their memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.exceptions import ReadError
from ml_energy_callbacks.readings import Device

_WATTS_PER_GB, _UNCERTAINTY = 0.2, 1.0
"""0.04 W/GB of idle DDR4, often about 0.15, and up to 0.4 while all of the bandwidth is used. A record has one share for both
sides, not above 1: the smallest power from which such an interval reaches 0.4 is half of that."""


class _Memory:
    """A constant power, integrated."""

    def __init__(self, device: Device, watts: float, clock: Clock) -> None:
        self.device = device
        self._watts = watts
        self._clock = clock
        self._start = clock()
        self._closed = False

    def read(self) -> float:
        """Return the modelled joules since the model was opened."""
        if self._closed:
            msg = "The model is closed."
            raise ReadError(msg)
        return self._watts * (self._clock() - self._start) / NS_PER_S

    def close(self) -> None:
        """Close the model."""
        self._closed = True


@dataclass(frozen=True, slots=True)
class MemoryModelBackend:
    """All memory modules together, by their size.

    Attributes:
        clock: Monotonic clock.
    """

    clock: Clock = monotonic_clock
    name: str = "memory-model"

    def open(self) -> Sequence[_Memory]:
        """Return the model of this machine's memory."""
        gigabytes = psutil.virtual_memory().total / 1e9
        device = Device(
            id="memory-model:0",
            name=f"Memory, {gigabytes:.0f} GB",
            kind="dram",
            backend=self.name,
            method="model",
            provenance="estimated",
            relative_uncertainty=_UNCERTAINTY,
            update_period_s=0.0,
            note=f"{gigabytes:.0f} GB x {_WATTS_PER_GB} W/GB.",
            latency_s=0.0,
            latency_source="known",
        )
        return [_Memory(device, gigabytes * _WATTS_PER_GB, self.clock)]
