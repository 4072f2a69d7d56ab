"""Simulated Apple silicon: a replacement of the module ``zeus_apple_silicon``."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Self

from ml_energy_callbacks.clock import Clock
from ml_energy_callbacks.testing.curves import Curve, refreshed


@dataclass(slots=True)
class AppleEnergyMetrics:
    """The counters of zeus-apple-silicon 1.1.0, in whole mJ; None for those that a chip does not have."""

    cpu_total_mj: int | None = None
    efficiency_cores_mj: list[int] | None = None
    performance_cores_mj: list[int] | None = None
    efficiency_cluster_mj: list[int] | None = None
    performance_cluster_mj: list[int] | None = None
    efficiency_core_manager_mj: int | None = None
    performance_core_manager_mj: int | None = None
    dram_mj: int | None = None
    gpu_mj: int | None = None
    gpu_sram_mj: int | None = None
    ane_mj: int | None = None


class SimulatedApple:
    """A chip whose counters follow curves: inside the context, ``import zeus_apple_silicon`` imports it.

    It has that part of the interface of zeus-apple-silicon 1.1.0 that reads cumulative energy:
    ``AppleEnergyMonitor.get_cumulative_energy`` and ``AppleEnergyMetrics``.

    Attributes:
        curves: True power by the name of the counter, such as ``gpu_mj``; all other counters are None.
        monitor_error: Error that the constructor of the monitor raises, or None.
        read_error: Error that a read raises, or None.
        import_error: Error that importing the module raises, set before the context begins; None if it works.
        reads: Number of reads of the counters.
    """

    def __init__(
        self, clock: Clock, curves: Mapping[str, Curve], *, refresh_s: float = 0.0, start_joules: float = 1000.0
    ) -> None:
        """Create the chip.

        Args:
            clock: Clock of the chip.
            curves: Its counters.
            refresh_s: Refresh period of the counters in s; 0 for counters that are always up to date.
            start_joules: Value of each counter at the start of its curve.
        """
        self.curves = dict(curves)
        self.monitor_error: Exception | None = None
        self.read_error: Exception | None = None
        self.import_error: Exception | None = None
        self.reads = 0
        self._clock = clock
        self._refresh_s = refresh_s
        self._start_joules = start_joules
        self._replaced: ModuleType | None = None

    def __enter__(self) -> Self:
        """Replace the module."""
        self._replaced = sys.modules.pop("zeus_apple_silicon", None)
        if self.import_error is None:
            sys.modules["zeus_apple_silicon"] = self._make_module()
        else:
            sys.meta_path.insert(0, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Restore the module."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        sys.modules.pop("zeus_apple_silicon", None)
        if self._replaced is not None:
            sys.modules["zeus_apple_silicon"] = self._replaced

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002 - Python's interface
        """Raise the import error, as one of Python's module finders."""
        if name == "zeus_apple_silicon" and self.import_error is not None:
            raise self.import_error

    def _make_module(self) -> ModuleType:
        chip = self

        class AppleEnergyMonitor:
            """Reads the counters."""

            def __init__(self) -> None:
                if chip.monitor_error is not None:
                    raise chip.monitor_error

            def get_cumulative_energy(self) -> AppleEnergyMetrics:
                """Return all counters."""
                return chip.metrics()

        module: Any = ModuleType("zeus_apple_silicon")
        module.AppleEnergyMonitor = AppleEnergyMonitor
        module.AppleEnergyMetrics = AppleEnergyMetrics
        made: ModuleType = module
        return made

    def metrics(self) -> AppleEnergyMetrics:
        """Return the present values of the counters, or raise the read error."""
        self.reads += 1
        if self.read_error is not None:
            raise self.read_error
        now = refreshed(self._clock(), self._refresh_s)
        metrics = AppleEnergyMetrics()
        for name, curve in self.curves.items():
            setattr(metrics, name, int((self._start_joules + curve.joules(now)) * 1000))
        return metrics
