"""NVIDIA GPUs through NVML: the energy counter, or readings of power where there is none."""

import contextlib
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pynvml

from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device

RELATIVE_UNCERTAINTY = 0.10
"""Yang, Adamek and Armour, "Part-time power measurements", arXiv:2312.02741: -8 % to +13 % against a wall meter, by card."""

_REACQUIRE_EVERY = 20
"""Failed reads between two attempts to get hold of a lost GPU: about one a second."""

_SCOPE_GPU, _SCOPE_MODULE = 0, 1
"""``NVML_POWER_SCOPE_*`` of nvml.h; the oldest nvidia-ml-py that we take does not name them."""

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""``PROC_PID_INIT_INO`` of Linux's include/linux/proc_ns.h: the inode of the namespace whose pids the driver tells."""

_MOST_PERCENT = 100

_MODULE_NOTE = "The figure covers the whole superchip: GPU, processor and memory."
_MIG_NOTE = "MIG is on, and a slice cannot be measured: the figure is the whole GPU's, which others may use as well."
_INSTANT_NOTE = "It has no energy counter: readings of its instant power are integrated."
_AVERAGE_NOTE = "It has no energy counter: readings of its power, an average over 1 s on most GPUs, are integrated."

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

_Query = Callable[[Any], float]


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to read a GPU.

    Attributes:
        query: From the handle to joules, or watts.
        note: How the figure comes about, where that is not plain.
    """

    query: _Query
    note: str | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """A GPU that the driver shows.

    Attributes:
        handle: NVML's, opaque.
        uuid: Its UUID, ``GPU-...``.
        name: Its name.
        slices: UUIDs of its MIG slices.
        mig: Whether MIG is on.
        place: PCI domain, bus and device.
        node: NUMA node that it is attached to; -1 where that is not known.
    """

    handle: Any
    uuid: str
    name: str
    slices: Sequence[str]
    mig: bool
    place: tuple[int, int, int]
    node: int

    def fits(self, name: str) -> bool:
        """Return whether an entry of ``CUDA_VISIBLE_DEVICES`` means this GPU or one of its slices."""
        if name.startswith("MIG-GPU-"):  # up to driver 460: MIG-GPU-<uuid>/<GPU instance>/<compute instance>
            return self.uuid == name.removeprefix("MIG-").partition("/")[0]
        return any(uuid.startswith(name) for uuid in (self.uuid, *self.slices))


class _Gpu:
    """One GPU, held by its UUID."""

    def __init__(self, device: Device, found: _Found, query: _Query, power: _Query | None, *, knows_pids: bool) -> None:
        pynvml.nvmlInit()
        self.device = device
        self._uuid = found.uuid
        self._handle = found.handle
        self._query = query
        self._power = power
        self._knows_pids = knows_pids
        self._seen_us = 0
        self._failures = 0
        self._open = self._holds_driver = True
        self._new_samples()  # those of before are not this job's time

    def read(self) -> float:
        """Return joules, or watts where the GPU has no energy counter."""
        return self._ask(self._query)

    def watts(self) -> float:
        """Return the power in W of all that the energy counter covers, by another query."""
        if self._power is None:
            msg = "The GPU tells no power beside what is read."
            raise ReadError(msg)
        return self._ask(self._power)

    def _ask(self, query: _Query) -> float:
        if not self._open:
            msg = "The GPU is closed."
            raise ReadError(msg)
        try:
            if self._failures and self._failures % _REACQUIRE_EVERY == 0:
                self._reacquire()
            value = query(self._handle)
        except pynvml.NVMLError as error:
            self._failures += 1
            raise ReadError(str(error)) from error
        self._failures = 0
        return value

    def process_share(self, pids: Collection[int]) -> float | None:
        """Return the share of the time of the GPU's multiprocessors since the last call that these processes had.

        Returns:
            None where the driver does not tell, nothing ran, or its pids are not ours: it tells those of the host, which
            in a container are others.
        """
        if not self._open or not self._knows_pids:
            return None
        samples = self._new_samples()
        everything = sum(sample.smUtil for sample in samples)
        if not everything:
            return None
        return float(sum(sample.smUtil for sample in samples if sample.pid in pids) / everything)

    def _new_samples(self) -> Sequence[Any]:
        try:
            samples = pynvml.nvmlDeviceGetProcessUtilization(self._handle, self._seen_us)
        except pynvml.NVMLError:
            return ()
        # Some drivers return stale and uninitialised entries as well (Syllo/nvtop, issue 110).
        samples = [s for s in samples if s.timeStamp > self._seen_us and s.smUtil <= _MOST_PERCENT]
        self._seen_us = max((sample.timeStamp for sample in samples), default=self._seen_us)
        return samples

    def _reacquire(self) -> None:
        """After a reload of the driver the old handle is dead for good."""
        self._let_go()
        pynvml.nvmlInit()
        self._holds_driver = True
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)

    def close(self) -> None:
        """Give the driver back; calling it twice is harmless."""
        self._open = False
        self._let_go()

    def _let_go(self) -> None:
        """Shut down what this GPU initialised, once: NVML counts, and other GPUs hold it as well."""
        if self._holds_driver:
            self._holds_driver = False
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


@dataclass(frozen=True, slots=True)
class NvmlBackend:
    """NVIDIA GPUs, those that ``CUDA_VISIBLE_DEVICES`` shows.

    Attributes:
        environ: Where ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` are taken from.
        proc: Linux's process file system.
        pci: Linux's tree of PCI devices.
    """

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    proc: Path = Path("/proc")
    pci: Path = Path("/sys/bus/pci/devices")
    name: str = "nvml"

    def open(self) -> Sequence[_Gpu]:
        """Open each visible GPU.

        Raises:
            BackendUnavailableError: There is no driver, no GPU, or none whose energy or power can be read.
        """
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise _unavailable(error, "NVML cannot be used") from error
        try:
            return self._open_all()
        except pynvml.NVMLError as error:
            raise _unavailable(error, "NVML failed") from error
        finally:
            pynvml.nvmlShutdown()

    def _open_all(self) -> Sequence[_Gpu]:
        found = [_look(pynvml.nvmlDeviceGetHandleByIndex(i), self.pci) for i in range(pynvml.nvmlDeviceGetCount())]
        if not found:
            msg = "The NVIDIA driver shows no GPU."
            raise BackendUnavailableError(msg)
        found.sort(key=lambda gpu: gpu.place)
        visible, note = self._visible(found)
        if not visible:
            msg = "CUDA_VISIBLE_DEVICES hides every GPU."
            raise BackendUnavailableError(msg)
        knows_pids = _in_initial_pid_namespace(self.proc)
        gpus: list[_Gpu] = []
        refusal: pynvml.NVMLError | None = None
        for gpu in visible:
            # Where several GPUs share a module, its power is not one GPU's.
            alone = not any(other.node == gpu.node for other in found if other is not gpu)
            try:
                gpus.append(self._open_one(gpu, note, alone=alone, knows_pids=knows_pids))
            except pynvml.NVMLError as error:
                refusal = error
        if not gpus:
            raise _unavailable(refusal, "No GPU here tells its energy or its power through NVML") from refusal
        return gpus

    def _open_one(self, gpu: _Found, note: str | None, *, alone: bool, knows_pids: bool) -> _Gpu:
        module = alone and _tells_module(gpu.handle)
        ways = _ways_that_work(gpu.handle, _SCOPE_MODULE if module else _SCOPE_GPU)
        counts = ways[0].query is _joules
        notes = (ways[0].note, _MODULE_NOTE if module else None, _MIG_NOTE if gpu.mig else None, note)
        device = Device(
            id=f"nvml:{gpu.uuid}",
            name=gpu.name,
            kind="gpu",
            backend=self.name,
            method="energy_counter" if counts else "power_integration",
            provenance="measured",
            relative_uncertainty=RELATIVE_UNCERTAINTY,
            note=" ".join(sentence for sentence in notes if sentence) or None,
            covers=("cpu", "dram") if module else (),
            shared=gpu.mig,
        )
        # Power that is integrated has nothing else to be held against.
        power = ways[1].query if counts and len(ways) > 1 else None
        return _Gpu(device, gpu, ways[0].query, power, knows_pids=knows_pids)

    def _visible(self, found: Sequence[_Found]) -> tuple[Sequence[_Found], str | None]:
        """Return the GPUs that CUDA shows, in its order, and a note where that is not certain."""
        text = self.environ.get("CUDA_VISIBLE_DEVICES")
        if text is None:
            return found, None
        # CUDA's own order, the fastest first, is the PCI bus's where all are alike.
        ordered = self.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({gpu.name for gpu in found}) == 1
        if not ordered and re.match(r"\s*\+?\d", text):
            return found, f"CUDA_VISIBLE_DEVICES={text} does not say which GPUs these are, so all are counted."
        return _shown(text, found), None


def _shown(text: str, found: Sequence[_Found]) -> Sequence[_Found]:
    """Return what a value of ``CUDA_VISIBLE_DEVICES`` shows.

    An entry that means no GPU, or of another form than the first, ends the list, and one that comes twice empties it: CUDA
    Programming Guide, "Environment variables", and what PyTorch's ``torch.cuda._parse_visible_devices`` found out.
    """
    entries = [entry.strip() for entry in text.split(",")]
    prefix = next((prefix for prefix in ("GPU-", "MIG-") if entries[0].startswith(prefix)), "")
    shown: list[_Found] = []
    taken: set[object] = set()
    for entry in entries:
        if prefix:
            fits = [gpu for gpu in found if gpu.fits(entry)] if entry.startswith(prefix) else []
        else:
            digits = re.match(r"\+?(\d+)", entry)  # "1x" is 1: CUDA reads it as strtoul does
            fits = list(found[int(digits[1]) :][:1]) if digits else []
        if len(fits) != 1:
            break
        (gpu,) = fits
        key = entry if prefix == "MIG-" else gpu.uuid  # two slices may be on one GPU
        if key in taken:
            return ()
        taken.add(key)
        if gpu not in shown:
            shown.append(gpu)
    return shown


def _look(handle: Any, pci: Path) -> _Found:  # noqa: ANN401 - an opaque handle
    place, node = (0, 0, 0), -1
    # A GPU that does not say where it is keeps NVML's order.
    with contextlib.suppress(pynvml.NVMLError):
        bus = pynvml.nvmlDeviceGetPciInfo(handle)
        place = (bus.domain, bus.bus, bus.device)
        with contextlib.suppress(OSError, ValueError):
            node = int((pci / f"{bus.domain:04x}:{bus.bus:02x}:{bus.device:02x}.0" / "numa_node").read_text(encoding="ascii"))
    mig = False
    slices = []
    with contextlib.suppress(pynvml.NVMLError):
        mig = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        for i in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle) if mig else 0):
            with contextlib.suppress(pynvml.NVMLError):  # places may be free
                slices.append(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i)))
    return _Found(handle, pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle), tuple(slices), mig, place, node)


def _unavailable(error: pynvml.NVMLError | None, what: str) -> BackendUnavailableError:
    reason, fix = _FIXES.get(getattr(error, "value", None), (f"{what}: {error}.", None))
    return BackendUnavailableError(reason, fix)


def _in_initial_pid_namespace(proc: Path) -> bool:
    try:
        return str((proc / "self/ns/pid").readlink()) == f"pid:[{_INITIAL_PID_NAMESPACE}]"
    except OSError:
        return False


def _tells_module(handle: Any) -> bool:  # noqa: ANN401 - an opaque handle
    """Return whether the GPU is part of a superchip whose module's power it tells.

    The energy counter then covers the module: seen on Grace Hopper (ml-energy/zeus, pull request 172); NVIDIA's
    documentation does not say. A GPU alone may tell nothing, 0, or its own power once more for the module.
    """
    instant = pynvml.NVML_FI_DEV_POWER_INSTANT
    try:
        gpu, module = pynvml.nvmlDeviceGetFieldValues(handle, [(instant, _SCOPE_GPU), (instant, _SCOPE_MODULE)])
    except pynvml.NVMLError:
        return False
    own = gpu.value.uiVal if gpu.nvmlReturn == pynvml.NVML_SUCCESS else 0
    return bool(module.nvmlReturn == pynvml.NVML_SUCCESS and module.value.uiVal > own)


def _ways_that_work(handle: Any, scope: int) -> Sequence[_Way]:  # noqa: ANN401 - an opaque handle
    """Return the ways to read a GPU, the best first; on some boards each says that it is not supported.

    Raises:
        NVMLError: None works.
    """
    instant = partial(_field_watts, pynvml.NVML_FI_DEV_POWER_INSTANT, scope)
    average = _watts if scope == _SCOPE_GPU else partial(_field_watts, pynvml.NVML_FI_DEV_POWER_AVERAGE, scope)
    working: list[_Way] = []
    refusal: pynvml.NVMLError | None = None
    for way in (_Way(_joules), _Way(instant, _INSTANT_NOTE), _Way(average, _AVERAGE_NOTE)):
        try:
            way.query(handle)
        except pynvml.NVMLError as error:
            refusal = error
        else:
            working.append(way)
    if refusal is not None and not working:
        raise refusal
    return working


def _joules(handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    millijoules: int = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    return millijoules / 1000


def _field_watts(number: int, scope: int, handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    value = pynvml.nvmlDeviceGetFieldValues(handle, [(number, scope)])[0]
    if value.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(value.nvmlReturn)
    return _positive_watts(value.value.uiVal)


def _watts(handle: Any) -> float:  # noqa: ANN401 - an opaque handle
    return _positive_watts(pynvml.nvmlDeviceGetPowerUsage(handle))


def _positive_watts(milliwatts: int) -> float:
    """Return the power in W; 0 is what a board tells that cannot measure it, for one that is on draws some."""
    if not milliwatts:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_DATA)
    return milliwatts / 1000
