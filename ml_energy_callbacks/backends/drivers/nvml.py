"""NVIDIA's NVML: one instance for all GPUs of a process, and its queries."""

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pynvml

SCOPE_GPU, SCOPE_MODULE = 0, 1
"""``NVML_POWER_SCOPE_*`` of nvml.h; the oldest supported nvidia-ml-py does not define them."""

_Answer = TypeVar("_Answer")


class Driver:
    """NVML, shared by all GPUs that this package reads in a process.

    NVML counts its initialisations and attaches to the driver only at the first one: after a reload of the driver nothing
    works before all users have shut NVML down, including other libraries of the process.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._handles: Mapping[str, Any] = {}
        self._users = 0
        self._inits = 0
        self._lock = threading.Lock()  # only for the counts: NVML's queries may run in any thread, and may hang

    def acquire(self) -> None:
        """Add a user, and initialise NVML for it."""
        with self._lock:
            pynvml.nvmlInit()
            self._inits += 1
            self._users += 1

    def release(self) -> None:
        """Shut NVML down once, unless a restart did so or the remaining users need it."""
        with self._lock:
            self._users -= 1
            self._shut_down(self._inits - self._users)

    def restart(self, generation: int) -> None:
        """Reattach to the driver, unless that has been done since this generation.

        Raises:
            NVMLError: The driver is not available at present.
        """
        with self._lock:
            if generation != self.generation:
                return
            try:
                self._handles = {}
                self._shut_down(self._inits)
                pynvml.nvmlInit()
                self._inits = 1
                self._find_gpus()
            finally:
                self.generation += 1

    def _shut_down(self, times: int) -> None:
        for _ in range(times):
            self._inits -= 1
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def find_gpus(self) -> tuple[Mapping[str, Any], Sequence[pynvml.NVMLError]]:
        """Return the handles of the GPUs by their UUIDs, in NVML's order, and the errors of the others.

        Raises:
            NVMLError: NVML does not report the number of GPUs.
        """
        with self._lock:
            return self._find_gpus()

    def _find_gpus(self) -> tuple[Mapping[str, Any], Sequence[pynvml.NVMLError]]:
        handles: dict[str, Any] = {}
        refusals: list[pynvml.NVMLError] = []
        # By number: nvmlDeviceGetHandleByUUID fails if any GPU is lost (nvml.h).
        for i in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(i)
                handles[pynvml.nvmlDeviceGetUUID(handle)] = handle
            except pynvml.NVMLError as error:
                refusals.append(error)
        # The handle of a GPU that was lost for a moment works again afterwards.
        self._handles = {**self._handles, **handles}
        return handles, refusals

    def query_gpu(self, uuid: str, query: Callable[[Any], _Answer]) -> _Answer:
        """Return a GPU's answer to a query.

        Raises:
            NVMLError: The query failed.
        """
        while True:
            generation = self.generation
            try:
                return query(self._handle(uuid))
            except pynvml.NVMLError:
                with self._lock:  # another thread's restart may be under way
                    if generation == self.generation:
                        raise

    def _handle(self, uuid: str) -> Any:  # noqa: ANN401 - opaque
        try:
            return self._handles[uuid]
        except KeyError:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST) from None


@functools.cache
def driver_of(pid: int) -> Driver:  # noqa: ARG001 - a forked process must not wait for a lock of its parent's threads
    """Return the driver of this process, which all its meters share."""
    return Driver()


def read_joules(handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    """Return a GPU's energy counter in J.

    Raises:
        NVMLError: The GPU does not report it.
    """
    millijoules: int = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    return millijoules / 1000


def read_field_watts(number: int, scope: int, handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    """Return a power in W.

    Args:
        number: ``NVML_FI_DEV_POWER_INSTANT`` or ``NVML_FI_DEV_POWER_AVERAGE``.
        scope: ``SCOPE_GPU`` or ``SCOPE_MODULE``.
        handle: The GPU's handle.

    Raises:
        NVMLError: The GPU does not report it.
    """
    value = pynvml.nvmlDeviceGetFieldValues(handle, [(number, scope)])[0]
    if value.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(value.nvmlReturn)
    return _positive_watts(value.value.uiVal)


def read_average_watts(handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    """Return a GPU's power in W, which on most GPUs is an average over 1 s.

    Raises:
        NVMLError: The GPU does not report it.
    """
    return _positive_watts(pynvml.nvmlDeviceGetPowerUsage(handle))


def read_limit_watts(handle: Any) -> float | None:  # noqa: ANN401 - an opaque handle
    """Return the highest power limit that a GPU can be set to in W, or the present one; None if it reports neither."""
    with contextlib.suppress(pynvml.NVMLError):
        return _positive_watts(pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)[1])
    with contextlib.suppress(pynvml.NVMLError):
        return _positive_watts(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    return None


def _positive_watts(milliwatts: int) -> float:
    """Return the power in W; refuse 0, which a board reports that cannot measure its power."""
    if not milliwatts:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_DATA)
    return milliwatts / 1000
