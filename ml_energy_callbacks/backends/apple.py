"""Apple silicon through IOReport's energy counters, which zeus-apple-silicon reads."""

import importlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_energy_callbacks.clock import Clock, monotonic_clock
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device, Kind

RELATIVE_UNCERTAINTY = 0.20
"""Our assumption: Apple states no accuracy; its manual page of powermetrics says "estimated and may be inaccurate"."""

_NOTE = "Estimated by Apple from activity, clock and voltage; there is no sensor."
"""Source: zeus-apple-silicon's README, on IOReport's values."""

_MAX_WATTS = 480.0
"""The most that a machine with such a chip draws: Apple's "Mac Studio power consumption and thermal output"."""

_FRESH_NS = 2_000_000
"""The devices of one round share a single read of all counters; the next round reads them again."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the chip; no part's energy includes that of another.

    Attributes:
        id: The last part of its device id.
        name: Its name for people.
        kind: Its kind of device.
        fields: Its counters in mJ. The first is required; those that exist are added up.
    """

    id: str
    name: str
    kind: Kind
    fields: tuple[str, ...]


_PARTS = (
    # The total of all cores, which includes the counters of single cores and clusters.
    _Part("cpu", "Apple silicon processor", "cpu", ("cpu_total_mj",)),
    # The M5 has no counter of its GPU's memory.
    _Part("gpu", "Apple silicon GPU", "gpu", ("gpu_mj", "gpu_sram_mj")),
    _Part("dram", "Apple silicon memory", "dram", ("dram_mj",)),
    _Part("ane", "Apple Neural Engine", "soc", ("ane_mj",)),
)


class _Monitor:
    """The counters of the whole chip, which are read all at once."""

    def __init__(self, monitor: Any, clock: Clock) -> None:  # noqa: ANN401 - the package has no types
        self._monitor = monitor
        self._clock = clock
        self._metrics: Any = None
        self._time = 0
        self._parts_read: set[_Part] = set()

    def read_joules(self, part: _Part) -> float | None:
        """Return a part's cumulative joules, or None if the chip does not count them.

        A second request for the same part reads the counters again.
        """
        if self._metrics is None or part in self._parts_read or self._clock() - self._time > _FRESH_NS:
            self._metrics = None  # in case the next line fails
            self._metrics = self._monitor.get_cumulative_energy()
            self._time = self._clock()
            self._parts_read.clear()
        self._parts_read.add(part)
        values = [getattr(self._metrics, name) for name in part.fields]
        return None if values[0] is None else sum(value for value in values if value is not None) / 1000


class _Source:
    """One part of the chip."""

    def __init__(self, device: Device, read: Callable[[], float | None]) -> None:
        self.device = device
        self._read: Callable[[], float | None] | None = read

    def read(self) -> float:
        """Return the cumulative joules."""
        if self._read is None:
            msg = "The counter is closed."
            raise ReadError(msg)
        try:
            joules = self._read()
        except Exception as error:
            raise ReadError(str(error)) from error
        if joules is None:
            msg = f"The counter of {self.device.name} is no longer available."
            raise ReadError(msg)
        return joules

    def close(self) -> None:
        """Release the counters; calling it twice is harmless."""
        self._read = None


@dataclass(frozen=True, slots=True)
class AppleBackend:
    """The processor, GPU, memory and Neural Engine of an Apple chip, if it has counters of them.

    Attributes:
        system: Name of the operating system.
        machine: Name of the processor's architecture.
        clock: Monotonic clock.
    """

    system: str = field(default_factory=platform.system)
    machine: str = field(default_factory=platform.machine)
    clock: Clock = monotonic_clock
    name: str = "apple"

    def open(self) -> Sequence[_Source]:
        """Open each part that has a counter.

        Raises:
            BackendUnavailableError: This is no Apple silicon, the package is missing, or the chip has no counter.
        """
        if (self.system, self.machine) != ("Darwin", "arm64"):
            msg = "This machine has no Apple silicon, or Python runs on it as an Intel program."
            raise BackendUnavailableError(msg)
        try:
            package = importlib.import_module("zeus_apple_silicon")
        except ModuleNotFoundError as error:
            msg = "The package zeus-apple-silicon, which reads Apple silicon's energy counters, is not installed."
            raise BackendUnavailableError(msg, "Run `pip install 'ml-energy-callbacks[apple]'`.", present=True) from error
        except ImportError as error:
            msg = f"The package zeus-apple-silicon cannot be loaded: {error}."
            fix = "Reinstall it for this Python: `pip install --force-reinstall zeus-apple-silicon`."
            raise BackendUnavailableError(msg, fix, present=True) from error
        try:
            monitor = _Monitor(package.AppleEnergyMonitor(), self.clock)
            parts = [part for part in _PARTS if monitor.read_joules(part) is not None]
        except Exception as error:
            msg = f"The energy counters of this Mac cannot be read: {error}."
            raise BackendUnavailableError(msg, present=True) from error
        if not parts:
            msg = "This Mac has no known energy counter; virtual machines have none."
            raise BackendUnavailableError(msg, present=True)
        return [self._make_source(part, monitor) for part in parts]

    def _make_source(self, part: _Part, monitor: _Monitor) -> _Source:
        device = Device(
            id=f"{self.name}:{part.id}",
            name=part.name,
            kind=part.kind,
            backend=self.name,
            method="energy_counter",
            provenance="estimated",
            relative_uncertainty=RELATIVE_UNCERTAINTY,
            note=_NOTE,
            max_watts=_MAX_WATTS,
        )
        return _Source(device, lambda: monitor.read_joules(part))
