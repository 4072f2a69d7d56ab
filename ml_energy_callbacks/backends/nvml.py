"""NVIDIA GPUs through NVML: the energy counter, or readings of power where there is none."""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pynvml

from ml_energy_callbacks.backends.drivers.cuda_visible import in_bus_order, says_numbers, shown, shows_none
from ml_energy_callbacks.backends.drivers.environment import Environment
from ml_energy_callbacks.backends.drivers.nvml import (
    SCOPE_GPU,
    SCOPE_MODULE,
    Driver,
    average_watts,
    driver_of,
    field_watts,
    joules,
)
from ml_energy_callbacks.backends.drivers.superchip import told_as_modules
from ml_energy_callbacks.backends.drivers.sysfs import read_text
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device

RELATIVE_UNCERTAINTY = 0.10
"""Yang, Adamek and Armour, "Part-time power measurements", arXiv:2312.02741: -8 % to +13 % against a wall meter, by card."""

_REACQUIRE_AFTER = 20
"""Failed reads until the first attempt to get hold of a lost GPU, about a second; then twice as many each time, for starting
NVML anew takes a while, in which no other GPU is read."""

_LOOK_EVERY = 10
"""Failed reads between two looks for a lost GPU, about half a second."""

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""``PROC_PID_INIT_INO`` of Linux's include/linux/proc_ns.h: the inode of the namespace whose pids the driver tells."""

_MOST_PERCENT = 100

_MODULE_NOTE = "The figure covers the whole superchip: GPU, processor and memory."
_MIG_NOTE = "MIG is on, and a slice cannot be measured: the figure is the whole GPU's, which others may use as well."
_INSTANT_NOTE = "It has no energy counter of its own: readings of its instant power are integrated."
_AVERAGE_NOTE = "It has no energy counter of its own: readings of its power, an average over 1 s on most GPUs, are integrated."

_CONTAINER_VARIABLE, _NONE_IN_CONTAINER = "NVIDIA_VISIBLE_DEVICES", {"", "none", "void"}
"""Of NVIDIA's container runtime: a container on a machine with GPUs that is to have none."""

_HIDDEN = "CUDA_VISIBLE_DEVICES hides every GPU."

_FIXES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "There is an NVIDIA GPU, and NVIDIA's driver library (libnvidia-ml.so.1) was not found.",
        "Install the NVIDIA driver; in a container, start it with --gpus all.",
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "There is an NVIDIA GPU, and its driver is not loaded.",
        "Load it (`sudo modprobe nvidia`) or reboot after its installation.",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "This user may not use the NVIDIA driver.",
        "Ask for access to /dev/nvidia*.",
    ),
    pynvml.NVML_ERROR_GPU_IS_LOST: (
        "The NVIDIA driver has lost its GPU.",
        "Reboot; `sudo dmesg | grep NVRM` shows why.",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "The NVIDIA library and the loaded driver are of different versions.",
        "Reboot, or reload the driver.",
    ),
}
_WITHOUT_GPU = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "NVIDIA's driver library (libnvidia-ml.so.1) was not found.",
        "Without an NVIDIA GPU that is as it should be; in a container, start it with --gpus all.",
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: ("The NVIDIA driver is not loaded, and there is no NVIDIA GPU on the PCI bus.", None),
}
"""What these two mean where the PCI bus shows no NVIDIA GPU."""
_ONLY_WITH_GPU = {
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}
"""Errors that a machine without an NVIDIA GPU does not have: in a virtual machine or on WSL the PCI bus may not show it."""

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
        node: NUMA node that it is attached to; None where that is not known.
    """

    handle: Any
    uuid: str
    name: str
    slices: Sequence[str]
    mig: bool
    place: tuple[int, int, int]
    node: int | None


class _Gpu:
    """One GPU, held by its UUID."""

    def __init__(self, device: Device, driver: Driver, uuid: str, query: _Query, *, knows_pids: bool) -> None:
        driver.acquire()
        self.device = device
        self._driver = driver
        self._generation = driver.generation
        self._uuid = uuid
        self._query = query
        self._knows_pids = knows_pids
        self._seen_us = 0
        self._failures = 0
        self._patience = _REACQUIRE_AFTER
        self._open = True
        self._new_samples()  # those of before are not this job's time

    def read(self) -> float:
        """Return joules, or watts where the GPU has no energy counter."""
        return self._ask(self._query)

    def _ask(self, query: _Query) -> float:
        if not self._open:
            msg = "The GPU is closed."
            raise ReadError(msg)
        try:
            if self._failures >= self._patience:
                self._patience = 2 * self._failures
                self._driver.restart(self._generation)
            elif self._failures and self._failures % _LOOK_EVERY == 0:
                self._driver.find()  # where a restart did not find it, as it was lost then
            self._generation = self._driver.generation
            value = self._driver.ask(self._uuid, query)
        except pynvml.NVMLError as error:
            self._failures += 1
            if error.value == pynvml.NVML_ERROR_UNINITIALIZED and self._failures == 1:
                self._patience = 1  # the driver was loaded anew: there is nothing to wait for
            raise ReadError(str(error)) from error
        self._failures, self._patience = 0, _REACQUIRE_AFTER
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
            samples = self._driver.ask(self._uuid, lambda handle: pynvml.nvmlDeviceGetProcessUtilization(handle, self._seen_us))
        except pynvml.NVMLError:
            return ()
        # Some drivers return stale and uninitialised entries as well (Syllo/nvtop, issue 110).
        samples = [s for s in samples if s.timeStamp > self._seen_us and s.smUtil <= _MOST_PERCENT]
        self._seen_us = max((sample.timeStamp for sample in samples), default=self._seen_us)
        return samples

    def close(self) -> None:
        """Give the driver back; calling it twice is harmless."""
        if self._open:
            self._open = False
            self._driver.release()


class _CountingGpu(_Gpu):
    """A GPU that counts its joules."""

    def __init__(
        self, device: Device, driver: Driver, uuid: str, query: _Query, power: _Query | None, *, knows_pids: bool
    ) -> None:
        super().__init__(device, driver, uuid, query, knows_pids=knows_pids)
        self._power = power

    def watts(self) -> float:
        """Return the power in W of all that the energy counter covers, by another query."""
        if self._power is None:
            msg = "The GPU tells no power beside its energy."
            raise ReadError(msg)
        return self._ask(self._power)


@dataclass(frozen=True, slots=True)
class NvmlBackend:
    """NVIDIA GPUs, those that ``CUDA_VISIBLE_DEVICES`` shows.

    Attributes:
        environ: Where ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` are taken from.
        proc: Linux's process file system.
        pci: Linux's tree of PCI devices.
    """

    environ: Mapping[str, str] = field(default_factory=Environment)
    proc: Path = Path("/proc")
    pci: Path = Path("/sys/bus/pci/devices")
    name: str = "nvml"

    def open(self) -> Sequence[_Gpu]:
        """Open each visible GPU.

        Raises:
            BackendUnavailableError: There is no driver, no GPU, or none whose energy or power can be read.
        """
        if shows_none(self.environ.get("CUDA_VISIBLE_DEVICES", "0")):
            raise BackendUnavailableError(_HIDDEN)
        driver = driver_of(os.getpid())
        try:
            driver.acquire()
            try:
                return self._open_all(driver)
            finally:
                driver.release()
        except pynvml.NVMLError as error:
            gpu = _has_gpu(self.pci) and self.environ.get(_CONTAINER_VARIABLE, "all") not in _NONE_IN_CONTAINER
            reason, fix = (None if gpu else _WITHOUT_GPU.get(error.value)) or _why(error, "NVML cannot be used")
            raise BackendUnavailableError(reason, fix, present=gpu or error.value in _ONLY_WITH_GPU) from error

    def _open_all(self, driver: Driver) -> Sequence[_Gpu]:
        handles, refusals = driver.find()
        # Where each job has GPUs of its own, the others' are refused so: they are not missed.
        unread = [error for error in refusals if error.value != pynvml.NVML_ERROR_NO_PERMISSION]
        if not handles:
            raise _nothing_opens(refusals, unread)
        found = sorted((_look(uuid, handle, self.pci) for uuid, handle in handles.items()), key=lambda gpu: gpu.place)
        visible, note = self._visible(found)
        if not visible:
            # What it shows may be the GPU that does not open.
            raise _nothing_opens(refusals, unread) if unread else BackendUnavailableError(_HIDDEN)
        modules, sharing = told_as_modules(visible, found)
        ways: list[tuple[_Found, Sequence[_Way]]] = []
        for gpu in visible:
            try:
                scope = SCOPE_MODULE if gpu.uuid in modules else SCOPE_GPU
                ways.append((gpu, _ways_that_work(gpu.handle, scope, counter=gpu.uuid not in sharing)))
            except pynvml.NVMLError as error:
                unread.append(error)
        if not ways:
            reason, fix = _why(unread[-1], "No GPU here tells its energy or its power through NVML")
            # A Jetson's is measured with its board, by another backend.
            raise BackendUnavailableError(reason, fix, present=not _is_jetson(self.proc))
        missing, numbers = _missing(unread), self._numbers(visible)
        return [
            self._open_one(driver, gpu, ways, note, missing, numbers.get(gpu.uuid), module=gpu.uuid in modules)
            for gpu, ways in ways
        ]

    def _open_one(
        self,
        driver: Driver,
        gpu: _Found,
        ways: Sequence[_Way],
        note: str | None,
        missing: str | None,
        number: int | None,
        *,
        module: bool,
    ) -> _Gpu:
        counts = ways[0].query is joules
        sentences = (ways[0].note, _MODULE_NOTE if module else None, _MIG_NOTE if gpu.mig else None, note)
        device = Device(
            id=f"nvml:{gpu.uuid}",
            name=gpu.name,
            kind="gpu",
            backend=self.name,
            method="energy_counter" if counts else "power_integration",
            provenance="measured",
            relative_uncertainty=RELATIVE_UNCERTAINTY,
            note=" ".join(sentence for sentence in sentences if sentence) or None,
            missing=missing,
            covers=("cpu", "dram") if module else (),
            cuda=number,
            node=gpu.node,
            shared=gpu.mig,
        )
        knows_pids = _in_initial_pid_namespace(self.proc)
        if not counts:
            return _Gpu(device, driver, gpu.uuid, ways[0].query, knows_pids=knows_pids)
        power = ways[1].query if len(ways) > 1 else None
        return _CountingGpu(device, driver, gpu.uuid, ways[0].query, power, knows_pids=knows_pids)

    def _visible(self, found: Sequence[_Found]) -> tuple[Sequence[_Found], str | None]:
        """Return the GPUs that CUDA shows, in its order, and a note where that is not certain.

        CUDA numbers the GPUs that a process can open. It cannot open another job's, nor one that is lost.
        """
        text = self.environ.get("CUDA_VISIBLE_DEVICES")
        if text is None:
            return found, None
        if says_numbers(text) and not in_bus_order(self.environ.get("CUDA_DEVICE_ORDER"), [gpu.name for gpu in found]):
            return found, f"CUDA_VISIBLE_DEVICES={text} does not say which GPUs these are, so all are counted."
        return [found[i] for i in shown(text, [(gpu.uuid, *gpu.slices) for gpu in found])], None

    def _numbers(self, visible: Sequence[_Found]) -> Mapping[str, int]:
        """Return by which numbers CUDA knows the GPUs that it shows, by their UUIDs.

        None are known where its order is not, and where MIG is on: then slices have numbers, not GPUs.
        """
        by_numbers = says_numbers(self.environ.get("CUDA_VISIBLE_DEVICES", "0"))
        ordered = not by_numbers or in_bus_order(self.environ.get("CUDA_DEVICE_ORDER"), [gpu.name for gpu in visible])
        known = ordered and not any(gpu.mig for gpu in visible)
        return {gpu.uuid: number for number, gpu in enumerate(visible)} if known else {}


def _look(uuid: str, handle: Any, pci: Path) -> _Found:  # noqa: ANN401 - an opaque handle
    name, place, node = "NVIDIA GPU", (0, 0, 0), None
    with contextlib.suppress(pynvml.NVMLError):
        name = pynvml.nvmlDeviceGetName(handle)
    # A GPU that does not say where it is keeps NVML's order.
    with contextlib.suppress(pynvml.NVMLError):
        bus = pynvml.nvmlDeviceGetPciInfo(handle)
        place = (bus.domain, bus.bus, bus.device)
        node = _node(pci / f"{bus.domain:04x}:{bus.bus:02x}:{bus.device:02x}.0")
    mig = False
    slices = []
    with contextlib.suppress(pynvml.NVMLError):
        mig = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        for i in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle) if mig else 0):
            with contextlib.suppress(pynvml.NVMLError):  # places may be free
                slices.append(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i)))
    return _Found(handle, uuid, name, tuple(slices), mig, place, node)


def _node(folder: Path) -> int | None:
    text = read_text(folder / "numa_node")
    return int(text) if text and text.isdecimal() else None  # -1 is Linux's word for an unknown one


def _has_gpu(pci: Path) -> bool:
    """Return whether NVIDIA has a display controller on the PCI bus, be there a driver or not."""
    return any(
        read_text(folder / "vendor") == "0x10de" and (read_text(folder / "class") or "").startswith("0x03")
        for folder in pci.glob("*")
    )


def _is_jetson(proc: Path) -> bool:
    return "nvidia,tegra" in (read_text(proc / "device-tree/compatible") or "")


def _why(error: pynvml.NVMLError, what: str) -> tuple[str, str | None]:
    """Return the reason and its fix."""
    return _FIXES.get(error.value, (f"{what}: {error}.", None))


def _nothing_opens(refusals: Sequence[pynvml.NVMLError], unread: Sequence[pynvml.NVMLError]) -> BackendUnavailableError:
    if unread:
        reason, fix = _why(unread[0], "No NVIDIA GPU answers")
        return BackendUnavailableError(reason, fix, present=True)
    if refusals:
        fix = "Ask the scheduler for one (`--gpus=1` with SLURM), or, if they are yours, for access to /dev/nvidia*."
        return BackendUnavailableError("This job may use none of the machine's NVIDIA GPUs.", fix)
    return BackendUnavailableError("The NVIDIA driver shows no GPU.")


def _missing(unread: Sequence[pynvml.NVMLError]) -> str | None:
    """Return a sentence on the GPUs whose energy is not told; None where there are none."""
    if not unread:
        return None
    causes = ", ".join(dict.fromkeys(str(error) for error in unread))
    who, whose = ("1 GPU", "its") if len(unread) == 1 else (f"{len(unread)} GPUs", "their")
    return f"{who} of this machine cannot be read ({causes}): {whose} energy is missing."


def _in_initial_pid_namespace(proc: Path) -> bool:
    try:
        return str((proc / "self/ns/pid").readlink()) == f"pid:[{_INITIAL_PID_NAMESPACE}]"
    except OSError:
        return False


def _ways_that_work(handle: Any, scope: int, *, counter: bool) -> Sequence[_Way]:  # noqa: ANN401 - an opaque handle
    """Return the ways to read a GPU, the best first; on some boards each says that it is not supported.

    Args:
        handle: NVML's.
        scope: Of the power.
        counter: Whether its energy counter is its own.

    Raises:
        NVMLError: None works.
    """
    instant = partial(field_watts, pynvml.NVML_FI_DEV_POWER_INSTANT, scope)
    average = average_watts if scope == SCOPE_GPU else partial(field_watts, pynvml.NVML_FI_DEV_POWER_AVERAGE, scope)
    working: list[_Way] = []
    refusal: pynvml.NVMLError | None = None
    for way in (_Way(joules), _Way(instant, _INSTANT_NOTE), _Way(average, _AVERAGE_NOTE))[not counter :]:
        try:
            way.query(handle)
        except pynvml.NVMLError as error:
            refusal = error
        else:
            working.append(way)
    if refusal is not None and not working:
        raise refusal
    return working
