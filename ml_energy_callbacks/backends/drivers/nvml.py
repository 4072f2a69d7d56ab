"""NVIDIA's NVML as a process holds it: once for all of our GPUs, and what is asked of it."""

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pynvml

SCOPE_GPU, SCOPE_MODULE = 0, 1
"""``NVML_POWER_SCOPE_*`` of nvml.h; the oldest nvidia-ml-py that we take does not name them."""

_Answer = TypeVar("_Answer")


class Driver:
    """NVML, shared by all our GPUs of a process.

    NVML counts how often it was initialised, and takes hold of the driver at the first time alone: after a reload of the
    driver nothing works again before everybody has shut it down. Where others in the process hold it as well, they have to.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._handles: Mapping[str, Any] = {}
        self._users = 0
        self._inits = 0
        self._lock = threading.Lock()  # for the counts alone: NVML's queries may come from any thread, and may hang

    def acquire(self) -> None:
        """Initialise NVML once more."""
        with self._lock:
            pynvml.nvmlInit()
            self._inits += 1
            self._users += 1

    def release(self) -> None:
        """Shut NVML down once, unless a restart did, or the users that are left need it."""
        with self._lock:
            self._users -= 1
            self._shut_down(self._inits - self._users)

    def restart(self, generation: int) -> None:
        """Take hold of the driver anew, unless that has been done since this generation.

        Raises:
            NVMLError: The driver is not to be had now.
        """
        with self._lock:
            if generation != self.generation:
                return
            try:
                self._handles = {}
                self._shut_down(self._inits)
                pynvml.nvmlInit()
                self._inits = 1
                self._find()
            finally:
                self.generation += 1

    def _shut_down(self, times: int) -> None:
        for _ in range(times):
            self._inits -= 1
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def find(self) -> tuple[Mapping[str, Any], Sequence[pynvml.NVMLError]]:
        """Return the handles of the GPUs by their UUIDs, in NVML's order, and why others are refused.

        Raises:
            NVMLError: NVML does not even tell how many there are.
        """
        with self._lock:
            return self._find()

    def _find(self) -> tuple[Mapping[str, Any], Sequence[pynvml.NVMLError]]:
        handles: dict[str, Any] = {}
        refusals: list[pynvml.NVMLError] = []
        # By their numbers: nvmlDeviceGetHandleByUUID fails where any GPU at all is lost, says nvml.h.
        for i in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(i)
                handles[pynvml.nvmlDeviceGetUUID(handle)] = handle
            except pynvml.NVMLError as error:
                refusals.append(error)
        # The handle of a GPU that is lost for a moment works again after it.
        self._handles = {**self._handles, **handles}
        return handles, refusals

    def ask(self, uuid: str, query: Callable[[Any], _Answer]) -> _Answer:
        """Return a GPU's answer.

        Raises:
            NVMLError: There is none.
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
def driver_of(pid: int) -> Driver:  # noqa: ARG001 - a forked process must not wait for our threads' lock
    """Return the one of this process, whoever opens it: two meters may measure at once."""
    return Driver()


def joules(handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    """Return a GPU's energy counter in J.

    Raises:
        NVMLError: It does not tell.
    """
    millijoules: int = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    return millijoules / 1000


def field_watts(number: int, scope: int, handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    """Return a power in W.

    Args:
        number: ``NVML_FI_DEV_POWER_INSTANT`` or ``NVML_FI_DEV_POWER_AVERAGE``.
        scope: The GPU's or its module's.
        handle: The GPU.

    Raises:
        NVMLError: It does not tell.
    """
    value = pynvml.nvmlDeviceGetFieldValues(handle, [(number, scope)])[0]
    if value.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(value.nvmlReturn)
    return _positive_watts(value.value.uiVal)


def average_watts(handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    """Return a GPU's power in W, on most an average over 1 s.

    Raises:
        NVMLError: It does not tell.
    """
    return _positive_watts(pynvml.nvmlDeviceGetPowerUsage(handle))


def _positive_watts(milliwatts: int) -> float:
    """Return the power in W; 0 is what a board tells that cannot measure it, for one that is on draws some."""
    if not milliwatts:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_DATA)
    return milliwatts / 1000
