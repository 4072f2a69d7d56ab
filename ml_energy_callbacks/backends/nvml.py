"""NVIDIA GPUs through NVML: the energy counter or, without one, power readings."""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pynvml

from ml_energy_callbacks.backends.drivers.cuda_visible import hides_all, is_in_bus_order, select_visible, selects_by_number
from ml_energy_callbacks.backends.drivers.environment import Environment
from ml_energy_callbacks.backends.drivers.nvml import (
    SCOPE_GPU,
    SCOPE_MODULE,
    Driver,
    driver_of,
    read_average_watts,
    read_field_watts,
    read_joules,
    read_limit_watts,
)
from ml_energy_callbacks.backends.drivers.power_windows import window_of
from ml_energy_callbacks.backends.drivers.superchip import find_module_figures
from ml_energy_callbacks.backends.drivers.sysfs import read_text
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device

RELATIVE_UNCERTAINTY = 0.10
"""Yang, Adamek and Armour, "Part-time power measurements", arXiv:2312.02741: -8 % to +13 % against a wall meter, by card."""

_REACQUIRE_AFTER = 20
"""Failed reads until the first attempt to reacquire a lost GPU, about a second; then twice as many each time, because
restarting NVML takes a while, during which no other GPU is read."""

_SEARCH_EVERY = 10
"""Failed reads between two searches for a lost GPU, about half a second."""

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""``PROC_PID_INIT_INO`` of Linux's include/linux/proc_ns.h: the inode of the namespace whose pids the driver reports."""

_MOST_PERCENT = 100

_MODULE_NOTE = "The figure covers the whole superchip: GPU, processor and memory."
_MIG_NOTE = "MIG is on, and slices cannot be measured: the figure covers the whole GPU, which others may also use."
_INSTANT_NOTE = "No energy counter of its own: its instant power is integrated."
_AVERAGE_NOTE = "No energy counter of its own: its power, an average over 1 s on most GPUs, is integrated."

_CONTAINER_VARIABLE, _NONE_IN_CONTAINER = "NVIDIA_VISIBLE_DEVICES", {"", "none", "void"}
"""Variable of NVIDIA's container runtime, and its values for a container without GPUs."""

_HIDDEN = "CUDA_VISIBLE_DEVICES hides every GPU."

_FIXES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "There is an NVIDIA GPU, but NVIDIA's driver library (libnvidia-ml.so.1) was not found.",
        "Install the NVIDIA driver; in a container, start it with --gpus all.",
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "There is an NVIDIA GPU, but its driver is not loaded.",
        "Load it (`sudo modprobe nvidia`), or reboot after installing it.",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "This user has no permission to use the NVIDIA driver.",
        "Request access to /dev/nvidia*.",
    ),
    pynvml.NVML_ERROR_GPU_IS_LOST: (
        "The NVIDIA driver has lost its GPU.",
        "Reboot; `sudo dmesg | grep NVRM` shows why.",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "The NVIDIA library and the loaded driver have different versions.",
        "Reboot, or reload the driver.",
    ),
}
_WITHOUT_GPU = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "NVIDIA's driver library (libnvidia-ml.so.1) was not found.",
        "This is normal without an NVIDIA GPU; start a container with --gpus all.",
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: ("The NVIDIA driver is not loaded, and there is no NVIDIA GPU on the PCI bus.", None),
}
"""Reasons of these two errors if the PCI bus has no NVIDIA GPU."""
_ONLY_WITH_GPU = {
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}
"""Errors that occur only with an NVIDIA GPU: in a virtual machine or on WSL, the PCI bus may not list it."""

_Query = Callable[[Any], float]


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to read a GPU.

    Attributes:
        query: Returns joules or watts for a handle.
        note: How the figure is obtained, or None.
        instant: Whether the watts are its instant power, whose window is known of some cards.
    """

    query: _Query
    note: str | None = None
    instant: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """A GPU that the driver lists.

    Attributes:
        handle: NVML's opaque handle.
        uuid: Its UUID, ``GPU-...``.
        name: Its name.
        slices: UUIDs of its MIG slices.
        mig: Whether MIG is on.
        bus_address: PCI domain, bus and device.
        node: NUMA node that it is attached to; None if unknown.
    """

    handle: Any
    uuid: str
    name: str
    slices: Sequence[str]
    mig: bool
    bus_address: tuple[int, int, int]
    node: int | None


class _Gpu:
    """One GPU, identified by its UUID."""

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
        self._read_new_samples()  # discard samples from before this job

    def read(self) -> float:
        """Return joules, or watts if the GPU has no energy counter."""
        return self._query_driver(self._query)

    def _query_driver(self, query: _Query) -> float:
        if not self._open:
            msg = "The GPU is closed."
            raise ReadError(msg)
        try:
            if self._failures >= self._patience:
                self._patience = 2 * self._failures
                self._driver.restart(self._generation)
            elif self._failures and self._failures % _SEARCH_EVERY == 0:
                self._driver.find_gpus()  # a restart may not have found it, as it was still lost
            self._generation = self._driver.generation
            value = self._driver.query_gpu(self._uuid, query)
        except pynvml.NVMLError as error:
            self._failures += 1
            if error.value == pynvml.NVML_ERROR_UNINITIALIZED and self._failures == 1:
                self._patience = 1  # the driver was reloaded: reattach at the next read
            raise ReadError(str(error)) from error
        self._failures, self._patience = 0, _REACQUIRE_AFTER
        return value

    def process_share(self, pids: Collection[int]) -> float | None:
        """Return these processes' share of the GPU's multiprocessor time since the last call.

        Returns:
            None if the driver does not report it, nothing ran, or this process is in a container: the driver reports the
            host's process ids, which differ from those in a container.
        """
        if not self._open or not self._knows_pids:
            return None
        samples = self._read_new_samples()
        everything = sum(sample.smUtil for sample in samples)
        if not everything:
            return None
        return float(sum(sample.smUtil for sample in samples if sample.pid in pids) / everything)

    def _read_new_samples(self) -> Sequence[Any]:
        try:
            samples = self._driver.query_gpu(
                self._uuid, lambda handle: pynvml.nvmlDeviceGetProcessUtilization(handle, self._seen_us)
            )
        except pynvml.NVMLError:
            return ()
        # Some drivers return stale and uninitialised entries as well (Syllo/nvtop, issue 110).
        samples = [s for s in samples if s.timeStamp > self._seen_us and s.smUtil <= _MOST_PERCENT]
        self._seen_us = max((sample.timeStamp for sample in samples), default=self._seen_us)
        return samples

    def close(self) -> None:
        """Release the driver; calling it twice is harmless."""
        if self._open:
            self._open = False
            self._driver.release()


class _CountingGpu(_Gpu):
    """A GPU with an energy counter."""

    def __init__(
        self, device: Device, driver: Driver, uuid: str, query: _Query, power: _Query | None, *, knows_pids: bool
    ) -> None:
        super().__init__(device, driver, uuid, query, knows_pids=knows_pids)
        self._power = power

    def watts(self) -> float:
        """Return the power in W of what the energy counter covers, by a separate query."""
        if self._power is None:
            msg = "The GPU reports only its energy, not its power."
            raise ReadError(msg)
        return self._query_driver(self._power)


@dataclass(frozen=True, slots=True)
class NvmlBackend:
    """The NVIDIA GPUs that ``CUDA_VISIBLE_DEVICES`` selects.

    Attributes:
        environ: Contains ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER``.
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
            BackendUnavailableError: There is no driver, no GPU, or no GPU whose energy or power can be read.
        """
        if hides_all(self.environ.get("CUDA_VISIBLE_DEVICES", "0")):
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
            reason, fix = (None if gpu else _WITHOUT_GPU.get(error.value)) or _reason_and_fix(error, "NVML cannot be used")
            raise BackendUnavailableError(reason, fix, present=gpu or error.value in _ONLY_WITH_GPU) from error

    def _open_all(self, driver: Driver) -> Sequence[_Gpu]:
        handles, refusals = driver.find_gpus()
        # If each job has GPUs of its own, those of other jobs give this error: they are not missing.
        unread = [error for error in refusals if error.value != pynvml.NVML_ERROR_NO_PERMISSION]
        if not handles:
            raise _none_opens(refusals, unread)
        found = sorted(
            (_describe_gpu(uuid, handle, self.pci) for uuid, handle in handles.items()), key=lambda gpu: gpu.bus_address
        )
        visible, note = self._select_visible_gpus(found)
        if not visible:
            # The selected GPU may be the one that cannot be opened.
            raise _none_opens(refusals, unread) if unread else BackendUnavailableError(_HIDDEN)
        modules, sharing = find_module_figures(visible, found)
        ways: list[tuple[_Found, Sequence[_Way]]] = []
        for gpu in visible:
            try:
                scope = SCOPE_MODULE if gpu.uuid in modules else SCOPE_GPU
                ways.append((gpu, _find_working_ways(gpu.handle, scope, counter=gpu.uuid not in sharing)))
            except pynvml.NVMLError as error:
                unread.append(error)
        if not ways:
            reason, fix = _reason_and_fix(unread[-1], "No GPU of this machine reports its energy or its power through NVML")
            # The GPU of a Jetson is measured with its module, by another backend.
            raise BackendUnavailableError(reason, fix, present=not _is_jetson(self.proc))
        missing, numbers = _missing_sentence(unread), self._cuda_numbers(visible)
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
        counts = ways[0].query is read_joules
        sentences = (ways[0].note, _MODULE_NOTE if module else None, _MIG_NOTE if gpu.mig else None, note)
        # The limit is the GPU's, whatever else of a module the figure includes.
        max_watts = None if module else read_limit_watts(gpu.handle)
        power = next((way for way in ways if way.query is not read_joules), None)
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
            max_watts=max_watts,
            power_window_s=None if power is None or module or not power.instant else window_of(gpu.name),
        )
        knows_pids = _in_initial_pid_namespace(self.proc)
        if not counts:
            return _Gpu(device, driver, gpu.uuid, ways[0].query, knows_pids=knows_pids)
        query = None if power is None else power.query
        return _CountingGpu(device, driver, gpu.uuid, ways[0].query, query, knows_pids=knows_pids)

    def _select_visible_gpus(self, found: Sequence[_Found]) -> tuple[Sequence[_Found], str | None]:
        """Return the GPUs that CUDA shows, in its order, and a note if that is not certain.

        CUDA numbers only the GPUs that a process can open: not those of other jobs, nor lost ones.
        """
        text = self.environ.get("CUDA_VISIBLE_DEVICES")
        if text is None:
            return found, None
        if selects_by_number(text) and not is_in_bus_order(self.environ.get("CUDA_DEVICE_ORDER"), [gpu.name for gpu in found]):
            return found, f"The GPUs of CUDA_VISIBLE_DEVICES={text} cannot be identified, so all are counted."
        return [found[i] for i in select_visible(text, [(gpu.uuid, *gpu.slices) for gpu in found])], None

    def _cuda_numbers(self, visible: Sequence[_Found]) -> Mapping[str, int]:
        """Return CUDA's numbers of the visible GPUs, by their UUIDs.

        They are unknown if CUDA's order is, and if MIG is on: then slices have numbers, not GPUs.
        """
        by_numbers = selects_by_number(self.environ.get("CUDA_VISIBLE_DEVICES", "0"))
        ordered = not by_numbers or is_in_bus_order(self.environ.get("CUDA_DEVICE_ORDER"), [gpu.name for gpu in visible])
        known = ordered and not any(gpu.mig for gpu in visible)
        return {gpu.uuid: number for number, gpu in enumerate(visible)} if known else {}


def _describe_gpu(uuid: str, handle: Any, pci: Path) -> _Found:  # noqa: ANN401 - an opaque handle
    name, bus_address, node = "NVIDIA GPU", (0, 0, 0), None
    with contextlib.suppress(pynvml.NVMLError):
        name = pynvml.nvmlDeviceGetName(handle)
    # A GPU without a known PCI address keeps NVML's order.
    with contextlib.suppress(pynvml.NVMLError):
        bus = pynvml.nvmlDeviceGetPciInfo(handle)
        bus_address = (bus.domain, bus.bus, bus.device)
        node = _read_node(pci / f"{bus.domain:04x}:{bus.bus:02x}:{bus.device:02x}.0")
    mig = False
    slices = []
    with contextlib.suppress(pynvml.NVMLError):
        mig = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        for i in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle) if mig else 0):
            with contextlib.suppress(pynvml.NVMLError):  # an index may be unused
                slices.append(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i)))
    return _Found(handle, uuid, name, tuple(slices), mig, bus_address, node)


def _read_node(folder: Path) -> int | None:
    text = read_text(folder / "numa_node")
    return int(text) if text and text.isdecimal() else None  # Linux reports -1 if it is unknown


def _has_gpu(pci: Path) -> bool:
    """Return whether the PCI bus has a display controller of NVIDIA, with or without a driver."""
    return any(
        read_text(folder / "vendor") == "0x10de" and (read_text(folder / "class") or "").startswith("0x03")
        for folder in pci.glob("*")
    )


def _is_jetson(proc: Path) -> bool:
    return "nvidia,tegra" in (read_text(proc / "device-tree/compatible") or "")


def _reason_and_fix(error: pynvml.NVMLError, what: str) -> tuple[str, str | None]:
    """Return the reason and the fix for an error."""
    return _FIXES.get(error.value, (f"{what}: {error}.", None))


def _none_opens(refusals: Sequence[pynvml.NVMLError], unread: Sequence[pynvml.NVMLError]) -> BackendUnavailableError:
    if unread:
        reason, fix = _reason_and_fix(unread[0], "No NVIDIA GPU answers")
        return BackendUnavailableError(reason, fix, present=True)
    if refusals:
        fix = "Request a GPU from the scheduler (`--gpus=1` with SLURM) or, if they are yours, access to /dev/nvidia*."
        return BackendUnavailableError("This job has no access to the machine's NVIDIA GPUs.", fix)
    return BackendUnavailableError("The NVIDIA driver lists no GPU.")


def _missing_sentence(unread: Sequence[pynvml.NVMLError]) -> str | None:
    """Return a sentence on the GPUs that cannot be read; None if there are none."""
    if not unread:
        return None
    causes = ", ".join(dict.fromkeys(str(error) for error in unread))
    who, whose = ("1 GPU", "its") if len(unread) == 1 else (f"{len(unread)} GPUs", "their")
    return f"{who} of this machine cannot be read ({causes}): {whose} energy is not included."


def _in_initial_pid_namespace(proc: Path) -> bool:
    try:
        return str((proc / "self/ns/pid").readlink()) == f"pid:[{_INITIAL_PID_NAMESPACE}]"
    except OSError:
        return False


def _find_working_ways(handle: Any, scope: int, *, counter: bool) -> Sequence[_Way]:  # noqa: ANN401 - an opaque handle
    """Return the ways to read a GPU that work, the best first; some boards support none.

    Args:
        handle: NVML's handle.
        scope: Scope of the power.
        counter: Whether the GPU has an energy counter of its own.

    Raises:
        NVMLError: None works.
    """
    instant = partial(read_field_watts, pynvml.NVML_FI_DEV_POWER_INSTANT, scope)
    average = read_average_watts if scope == SCOPE_GPU else partial(read_field_watts, pynvml.NVML_FI_DEV_POWER_AVERAGE, scope)
    working: list[_Way] = []
    refusal: pynvml.NVMLError | None = None
    ways = (
        _Way(read_joules),
        _Way(instant, _INSTANT_NOTE, instant=True),
        _Way(average, _AVERAGE_NOTE),
    )
    for way in ways[not counter :]:
        try:
            way.query(handle)
        except pynvml.NVMLError as error:
            refusal = error
        else:
            working.append(way)
    if refusal is not None and not working:
        raise refusal
    return working
