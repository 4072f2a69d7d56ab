"""Simulated Apple silicon: a stand-in for the module ``zeus_apple_silicon``."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Self

from ml_energy_callbacks.clock import Clock
from ml_energy_callbacks.testing.curves import Curve, refreshed


@dataclass(slots=True)
class AppleEnergyMetrics:
    """The counters of zeus-apple-silicon 1.1.0, in whole mJ; None where a chip has none."""

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
    """A chip whose counters follow curves: while the context lasts, ``import zeus_apple_silicon`` finds it.

    It has that part of the interface of zeus-apple-silicon 1.1.0 that reads cumulative energy:
    ``AppleEnergyMonitor.get_cumulative_energy`` and ``AppleEnergyMetrics``.

    Attributes:
        curves: From the name of a counter, such as ``gpu_mj``, to its true power; the others are None.
        monitor_error: What making a monitor raises, or None.
        read_error: What reading it raises, or None.
        import_error: What importing the module raises, set before the context begins; None where it works.
        reads: How often the counters were read.
    """

    def __init__(
        self, clock: Clock, curves: Mapping[str, Curve], *, refresh_s: float = 0.0, start_joules: float = 1000.0
    ) -> None:
        """Make the chip.

        Args:
            clock: What it goes by.
            curves: The counters that it has.
            refresh_s: Period of their refresh in s; 0 for counters that are always up to date.
            start_joules: Value of each counter where its curve begins.
        """
        self.curves = dict(curves)
        self.monitor_error: Exception | None = None
        self.read_error: Exception | None = None
        self.import_error: Exception | None = None
        self.reads = 0
        self._clock = clock
        self._refresh_s = refresh_s
        self._start_joules = start_joules
        self._before: ModuleType | None = None

    def __enter__(self) -> Self:
        """Take the place of the module."""
        self._before = sys.modules.pop("zeus_apple_silicon", None)
        if self.import_error is None:
            sys.modules["zeus_apple_silicon"] = self._module()
        else:
            sys.meta_path.insert(0, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give the place back."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        sys.modules.pop("zeus_apple_silicon", None)
        if self._before is not None:
            sys.modules["zeus_apple_silicon"] = self._before

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002 - Python's interface
        """Fail to be imported, as Python's finder of modules."""
        if name == "zeus_apple_silicon" and self.import_error is not None:
            raise self.import_error

    def _module(self) -> ModuleType:
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
        """Return what the counters show now; raises what is to be raised."""
        self.reads += 1
        if self.read_error is not None:
            raise self.read_error
        now = refreshed(self._clock(), self._refresh_s)
        metrics = AppleEnergyMetrics()
        for name, curve in self.curves.items():
            setattr(metrics, name, int((self._start_joules + curve.joules(now)) * 1000))
        return metrics
