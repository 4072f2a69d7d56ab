"""Superchips: whether the figure of an NVIDIA GPU is the GPU's, or that of its module with processor and memory."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any, Protocol

import pynvml

from ml_energy_callbacks.backends.drivers.nvml import SCOPE_GPU, SCOPE_MODULE, field_watts, joules

_FACTOR, _EXTRA_W = 1.05, 5.0
"""A module draws more than this factor of its GPU's power and these watts: our assumption. A driver that knows no module tells
the GPU's power once more, and that may be another reading of it."""
_SAMPLES, _STEP_S = 3, 0.03

_COMPARISON_S, _COMPARISON_STEP_S = 0.5, 0.01
"""Some refreshes of the counter, which takes 0.1 s each."""


class Gpu(Protocol):
    """A GPU that the driver shows."""

    @property
    def handle(self) -> Any:  # noqa: ANN401 - opaque
        """NVML's."""

    @property
    def uuid(self) -> str:
        """Its UUID."""

    @property
    def node(self) -> int | None:
        """NUMA node that it is attached to; None where that is not known."""


class _Tally:
    """A superchip's counter beside the integrals of the GPU's own power and of its module's."""

    def __init__(self) -> None:
        self._then: float | None = None
        self._count = self._own = self._module = 0.0
        self._refreshes: list[tuple[float, float, float]] = []

    def add(self, now: float, count: float, own: float, module: float) -> None:
        """Take note of an instant in s, the counter in J and the two powers in W."""
        if self._then is not None:
            self._own += own * (now - self._then)
            self._module += module * (now - self._then)
            if count != self._count:
                self._refreshes.append((count, self._own, self._module))
        self._then, self._count = now, count

    def counts_module(self, *, otherwise: bool) -> bool:
        """Return whether the counter is closer to the module's power than to the GPU's own, from its first refresh to its last.

        Args:
            otherwise: The answer where it did not refresh twice.
        """
        if not self._refreshes or self._refreshes[0] is self._refreshes[-1]:
            return otherwise
        count, own, module = (last - first for first, last in zip(self._refreshes[0], self._refreshes[-1], strict=True))
        return abs(count - module) <= abs(count - own)


def told_as_modules(gpus: Sequence[Gpu], found: Sequence[Gpu]) -> tuple[set[str], set[str]]:
    """Return the UUIDs of the GPUs whose figure is to be their module's, and of those whose counter is not their own.

    NVIDIA's documentation does not say whether the energy counter covers the module. On Grace Hopper it does (ml-energy/zeus,
    pull request 172); here each is watched for a moment. Where there is no counter, or it stands still, the module's power is
    taken, unless another GPU may be on the same module.

    Where the counters of two GPUs on one node follow the module, neither can be counted: both are told by their own power.

    Args:
        gpus: Those that are asked about.
        found: All that the machine has.
    """
    tallies = [(gpu, _Tally()) for gpu in gpus if _tells_module(gpu.handle)]
    end = time.monotonic() + _COMPARISON_S
    while tallies and time.monotonic() < end:
        for gpu, tally in tallies:
            with contextlib.suppress(pynvml.NVMLError):
                tally.add(time.monotonic(), joules(gpu.handle), *_own_and_module_watts(gpu.handle))
        time.sleep(_COMPARISON_STEP_S)
    alone = {gpu.uuid for gpu in found if [other.node for other in found].count(gpu.node) == 1}
    modules = [gpu for gpu, tally in tallies if tally.counts_module(otherwise=gpu.uuid in alone)]
    nodes = [gpu.node for gpu in modules]
    sharing = {gpu.uuid for gpu in modules if gpu.node is not None and nodes.count(gpu.node) > 1}
    return {gpu.uuid for gpu in modules} - sharing, sharing


def _tells_module(handle: Any) -> bool:  # noqa: ANN401 - an opaque handle
    """Return whether the GPU is part of a superchip whose module's power it tells, again and again."""
    for i in range(_SAMPLES):
        time.sleep(_STEP_S if i else 0.0)
        try:
            own, module = _own_and_module_watts(handle)
        except pynvml.NVMLError:
            return False
        if module <= _FACTOR * own + _EXTRA_W:
            return False
    return True


def _own_and_module_watts(handle: Any) -> tuple[float, float]:  # noqa: ANN401 - an opaque handle
    instant = pynvml.NVML_FI_DEV_POWER_INSTANT
    return field_watts(instant, SCOPE_GPU, handle), field_watts(instant, SCOPE_MODULE, handle)
