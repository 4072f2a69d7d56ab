"""Superchips: whether a figure of an NVIDIA GPU covers only the GPU, or its module with processor and memory."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any, Protocol

import pynvml

from ml_energy_callbacks.backends.drivers.nvml import SCOPE_GPU, SCOPE_MODULE, read_field_watts, read_joules

_FACTOR, _EXTRA_W = 1.05, 5.0
"""A module draws more than this factor of its GPU's power plus these watts: our assumption. A driver without module power
reports the GPU's power instead, possibly by a later reading."""
_SAMPLES, _STEP_S = 3, 0.03

_COMPARISON_S, _COMPARISON_STEP_S = 0.5, 0.01
"""Time for some refreshes of the counter, whose period is 0.1 s."""


class Gpu(Protocol):
    """A GPU that the driver lists."""

    @property
    def handle(self) -> Any:  # noqa: ANN401 - opaque
        """NVML's handle."""

    @property
    def uuid(self) -> str:
        """Its UUID."""

    @property
    def node(self) -> int | None:
        """NUMA node that it is attached to; None if unknown."""


class _CounterComparison:
    """Compares a superchip's counter with the integrals of the GPU's own power and of its module's power."""

    def __init__(self) -> None:
        self._last_time: float | None = None
        self._count = self._own = self._module = 0.0
        self._refreshes: list[tuple[float, float, float]] = []

    def add_reading(self, now: float, count: float, own: float, module: float) -> None:
        """Record the counter in J and the two powers in W at an instant in s."""
        if self._last_time is not None:
            self._own += own * (now - self._last_time)
            self._module += module * (now - self._last_time)
            if count != self._count:
                self._refreshes.append((count, self._own, self._module))
        self._last_time, self._count = now, count

    def counts_module(self, *, otherwise: bool) -> bool:
        """Return whether the counter is closer to the module's power than to the GPU's own, from its first refresh to its last.

        Args:
            otherwise: The answer if the counter did not refresh twice.
        """
        if not self._refreshes or self._refreshes[0] is self._refreshes[-1]:
            return otherwise
        count, own, module = (last - first for first, last in zip(self._refreshes[0], self._refreshes[-1], strict=True))
        return abs(count - module) <= abs(count - own)


def find_module_figures(gpus: Sequence[Gpu], found: Sequence[Gpu]) -> tuple[set[str], set[str]]:
    """Return the UUIDs of the GPUs whose figure is to cover their module, and of those that share a module's counter.

    NVIDIA's documentation does not state whether the energy counter covers the module. On Grace Hopper it does
    (ml-energy/zeus, pull request 172); therefore each counter is compared with both powers for a moment. If there is no
    counter, or it is frozen, the module's power is used, unless another GPU may be on the same module.

    If the counters of two GPUs on one node both follow the module, neither is used: both GPUs are measured by their own power.

    Args:
        gpus: The GPUs to examine.
        found: All GPUs of the machine.
    """
    comparisons = [(gpu, _CounterComparison()) for gpu in gpus if _reports_module_power(gpu.handle)]
    end = time.monotonic() + _COMPARISON_S
    while comparisons and time.monotonic() < end:
        for gpu, comparison in comparisons:
            with contextlib.suppress(pynvml.NVMLError):
                comparison.add_reading(time.monotonic(), read_joules(gpu.handle), *_read_own_and_module_watts(gpu.handle))
        time.sleep(_COMPARISON_STEP_S)
    without_neighbour = {gpu.uuid for gpu in found if [other.node for other in found].count(gpu.node) == 1}
    modules = [gpu for gpu, comparison in comparisons if comparison.counts_module(otherwise=gpu.uuid in without_neighbour)]
    nodes = [gpu.node for gpu in modules]
    sharing = {gpu.uuid for gpu in modules if gpu.node is not None and nodes.count(gpu.node) > 1}
    return {gpu.uuid for gpu in modules} - sharing, sharing


def _reports_module_power(handle: Any) -> bool:  # noqa: ANN401 - an opaque handle
    """Return whether the GPU is part of a superchip, that is, repeatedly reports a module power above its own."""
    for i in range(_SAMPLES):
        time.sleep(_STEP_S if i else 0.0)
        try:
            own, module = _read_own_and_module_watts(handle)
        except pynvml.NVMLError:
            return False
        if module <= _FACTOR * own + _EXTRA_W:
            return False
    return True


def _read_own_and_module_watts(handle: Any) -> tuple[float, float]:  # noqa: ANN401 - an opaque handle
    instant = pynvml.NVML_FI_DEV_POWER_INSTANT
    return read_field_watts(instant, SCOPE_GPU, handle), read_field_watts(instant, SCOPE_MODULE, handle)
