"""NVIDIA GPUs through NVML: the energy counter, or instant power where there is none."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pynvml

from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device

RELATIVE_UNCERTAINTY = 0.10
"""Yang, Adamek and Armour, "Part-time power measurements", arXiv:2312.02741: -8 % to +13 % against a wall meter, by card."""

_REACQUIRE_EVERY = 20
"""Failed reads between two attempts to get hold of a lost GPU: about one a second."""

_FIXES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "NVIDIA's driver library (libnvidia-ml.so.1) was not found.",
        "Without an NVIDIA GPU that is as it should be; in a container, start it with --gpus all.",
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "The NVIDIA driver is not loaded.",
        "Load it (`sudo modprobe nvidia`) or reboot after its installation.",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "This user may not use the NVIDIA driver.",
        "Ask for access to /dev/nvidia*.",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "The NVIDIA library and the loaded driver are of different versions.",
        "Reboot, or reload the driver.",
    ),
}


class _Gpu:
    """One GPU, held by its UUID."""

    def __init__(self, device: Device, uuid: str, query: Callable[[Any], float]) -> None:
        pynvml.nvmlInit()
        self.device = device
        self._uuid = uuid
        self._query = query
        self._handle: Any = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        self._failures = 0
        self._open = True

    def read(self) -> float:
        """Return joules, or watts where the GPU has no energy counter."""
        try:
            if self._failures and self._failures % _REACQUIRE_EVERY == 0:
                self._reacquire()
            value = self._query(self._handle)
        except pynvml.NVMLError as error:
            self._failures += 1
            raise ReadError(str(error)) from error
        self._failures = 0
        return value

    def _reacquire(self) -> None:
        """After a reload of the driver the old handle is dead for good."""
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)

    def close(self) -> None:
        """Give the driver back; calling it twice is harmless."""
        if self._open:
            self._open = False
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


class NvmlBackend:
    """NVIDIA GPUs, those that ``CUDA_VISIBLE_DEVICES`` shows."""

    name = "nvml"

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Take ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` from this environment."""
        self._environ = environ

    def open(self) -> Sequence[_Gpu]:
        """Open each visible GPU.

        Raises:
            BackendUnavailableError: There is no driver, no GPU, or none whose energy or power can be read.
        """
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            reason, fix = _FIXES.get(error.value, (f"NVML cannot be used: {error}.", None))
            raise BackendUnavailableError(reason, fix) from error
        try:
            return self._open_all()
        except pynvml.NVMLError as error:
            msg = f"NVML failed: {error}."
            raise BackendUnavailableError(msg) from error
        finally:
            pynvml.nvmlShutdown()

    def _open_all(self) -> Sequence[_Gpu]:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        if not handles:
            msg = "The NVIDIA driver shows no GPU."
            raise BackendUnavailableError(msg)
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        names = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
        visible, note = self._visible(uuids, names)
        if not visible:
            msg = "CUDA_VISIBLE_DEVICES hides every GPU."
            raise BackendUnavailableError(msg)
        gpus = []
        for i in visible:
            query = _choose_query(handles[i])
            if query is None:
                continue
            device = Device(
                id=f"nvml:{uuids[i]}",
                name=names[i],
                kind="gpu",
                backend=self.name,
                method="energy_counter" if query is _joules else "power_integration",
                provenance="measured",
                relative_uncertainty=RELATIVE_UNCERTAINTY,
                note=note,
            )
            gpus.append(_Gpu(device, uuids[i], query))
        if not gpus:
            msg = "No GPU here tells its energy or its power through NVML."
            raise BackendUnavailableError(msg)
        return gpus

    def _visible(self, uuids: Sequence[str], names: Sequence[str]) -> tuple[Sequence[int], str | None]:
        """Return the indices of the GPUs that CUDA shows, and a note where that is not certain."""
        text = self._environ.get("CUDA_VISIBLE_DEVICES")
        everything = range(len(uuids))
        if text is None:
            return everything, None
        in_pci_order = self._environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len(set(names)) == 1
        indices: list[int] = []
        for entry in text.split(","):
            name = entry.strip()
            fits = [i for i in everything if uuids[i].startswith(name)] if name.startswith("GPU-") else []
            if len(fits) == 1:
                indices += fits
            elif name.isdigit() and int(name) < len(uuids) and in_pci_order:
                indices.append(int(name))
            elif name.startswith("MIG-") or (name.isdigit() and int(name) < len(uuids)):
                return everything, f"CUDA_VISIBLE_DEVICES={text} does not say which GPUs these are, so all are counted."
            else:
                break  # as CUDA does: what follows an invalid entry is hidden
        return list(dict.fromkeys(indices)), None


def _joules(handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    millijoules: int = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    return millijoules / 1000


def _instant_watts(handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    field = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
    if field.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(field.nvmlReturn)
    milliwatts: int = field.value.uiVal
    return milliwatts / 1000


def _watts(handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    milliwatts: int = pynvml.nvmlDeviceGetPowerUsage(handle)
    return milliwatts / 1000


def _choose_query(handle: Any) -> Callable[[Any], float] | None:  # noqa: ANN401 - an opaque handle
    """Return the best query that answers: on some boards each says that it is not supported."""
    for query in (_joules, _instant_watts, _watts):
        with contextlib.suppress(pynvml.NVMLError):
            query(handle)
            return query
    return None
