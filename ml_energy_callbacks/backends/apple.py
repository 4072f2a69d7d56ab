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
"""Our assumption: Apple states none, and its manual page of powermetrics says "estimated and may be inaccurate"."""

_NOTE = "Apple's own estimate from activity, clock and voltage, in place of a sensor."
"""As zeus-apple-silicon's README says of IOReport's values."""

_FRESH_NS = 2_000_000
"""One look serves the devices that are read one after the other, not those of the next round."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the chip; no part's energy is inside another's.

    Attributes:
        id: What its id ends with.
        name: What a person calls it.
        kind: What sort of hardware it is.
        fields: Its counters in mJ. The first must be there, and those that are there are added.
    """

    id: str
    name: str
    kind: Kind
    fields: tuple[str, ...]


_PARTS = (
    # The total of all cores: those, and the clusters, are inside it.
    _Part("cpu", "Apple silicon processor", "cpu", ("cpu_total_mj",)),
    # The M5 has no counter of its GPU's memory.
    _Part("gpu", "Apple silicon GPU", "gpu", ("gpu_mj", "gpu_sram_mj")),
    _Part("dram", "Apple silicon memory", "dram", ("dram_mj",)),
    _Part("ane", "Apple Neural Engine", "soc", ("ane_mj",)),
)


class _Monitor:
    """The counters of the whole chip, which come all at once."""

    def __init__(self, monitor: Any, clock: Clock) -> None:  # noqa: ANN401 - of a package without types
        self._monitor = monitor
        self._clock = clock
        self._metrics: Any = None
        self._time = 0
        self._served: set[_Part] = set()

    def joules(self, part: _Part) -> float | None:
        """Return a part's cumulative joules, or None where the chip does not count them.

        Whoever asks again gets a new look.
        """
        if self._metrics is None or part in self._served or self._clock() - self._time > _FRESH_NS:
            self._metrics = None  # where the next line fails
            self._metrics = self._monitor.get_cumulative_energy()
            self._time = self._clock()
            self._served.clear()
        self._served.add(part)
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
            msg = f"{self.device.name} is not counted any more."
            raise ReadError(msg)
        return joules

    def close(self) -> None:
        """Let the counters go; calling it twice is harmless."""
        self._read = None


@dataclass(frozen=True, slots=True)
class AppleBackend:
    """The processor, GPU, memory and Neural Engine of an Apple chip, as far as it counts them.

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
            BackendUnavailableError: This is no such machine, the package is missing, or the chip counts nothing.
        """
        if (self.system, self.machine) != ("Darwin", "arm64"):
            msg = "This machine has no Apple silicon, or Python runs on it as a program for Intel."
            raise BackendUnavailableError(msg)
        try:
            package = importlib.import_module("zeus_apple_silicon")
        except ModuleNotFoundError as error:
            msg = "The package zeus-apple-silicon, which reads Apple silicon's energy counters, is not installed."
            raise BackendUnavailableError(msg, "Run `pip install 'ml-energy-callbacks[apple]'`.", present=True) from error
        except ImportError as error:
            msg = f"The package zeus-apple-silicon cannot be loaded: {error}."
            fix = "Install it anew for this Python: `pip install --force-reinstall zeus-apple-silicon`."
            raise BackendUnavailableError(msg, fix, present=True) from error
        try:
            monitor = _Monitor(package.AppleEnergyMonitor(), self.clock)
            parts = [part for part in _PARTS if monitor.joules(part) is not None]
        except Exception as error:
            msg = f"The energy counters of this Mac cannot be read: {error}."
            raise BackendUnavailableError(msg, present=True) from error
        if not parts:
            msg = "This Mac shows no energy counter that is known; virtual machines have none."
            raise BackendUnavailableError(msg, present=True)
        return [self._source(part, monitor) for part in parts]

    def _source(self, part: _Part, monitor: _Monitor) -> _Source:
        device = Device(
            id=f"{self.name}:{part.id}",
            name=part.name,
            kind=part.kind,
            backend=self.name,
            method="energy_counter",
            provenance="estimated",
            relative_uncertainty=RELATIVE_UNCERTAINTY,
            note=_NOTE,
        )
        return _Source(device, lambda: monitor.joules(part))
