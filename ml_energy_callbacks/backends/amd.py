"""AMD GPUs through AMD's management library: the energy counter or, without one, socket power."""

import contextlib
import functools
import importlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_energy_callbacks.backends.drivers.environment import Environment
from ml_energy_callbacks.backends.drivers.rocm_visible import APUS, Node, hides_all, parse_node, select_visible, selects_gpus
from ml_energy_callbacks.backends.drivers.sysfs import read_text
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device, Kind

RELATIVE_UNCERTAINTY = 0.10
"""Our assumption, as for NVIDIA's: AMD states no accuracy. The library multiplies by 15.3 µJ, whereas the kernel's header
(kgd_pp_interface.h) states 2^-16 J = 15.259 µJ: a difference of 0.3 %."""

_REACQUIRE_AFTER = 20
"""Failed reads until the first attempt to reacquire a lost GPU, about a second; then twice as many each time, because
restarting the library takes a while, during which no other GPU is read."""

_LONGEST_QUERY_S = 1.0
"""For so long, a restart waits for the queries of other GPUs."""

_WORD = 2**32
_UNKNOWN_COUNTS = frozenset({0, _WORD - 1, 2**64 - 1})
"""Values that the driver reports instead of a counter: 0 on a card's second die (aldebaran_ppt.c), all ones on GPUs without
a counter and where the firmware no longer supports it (smu_v13_0_0_ppt.c, smu_v14_0_2_ppt.c)."""

_POWER_KEYS = ("current_socket_power", "average_socket_power", "socket_power")
"""Keys of the power in W: MI300 and later report the first, others the second; later releases copy either to the third."""
_NO_POWER = 0xFFFF
"""All ones in the driver's fields of 16 bits mean "not available"; some releases pass on wider values, or µW, unchanged."""

_MOST_IN_WATTS = 100_000
"""A larger limit of power is in µW, as some releases report it."""

_TWO_DIES = frozenset({0x7408, 0x740C})
"""PCI ids of MI250X and MI250: the system shows two GPUs, which share one counter."""

_MI300A = 0x74A0

_KFD = "sys/class/kfd/kfd/topology/nodes"
"""ROCm's nodes: in a container, the nodes of other containers' GPUs are listed but not readable (kfd_topology.c)."""
_BOUND = "sys/bus/pci/drivers/amdgpu"

_INSTALL = "Install it with `pip install 'ml-energy-callbacks[amd]'`, in the release that matches your ROCm."
_FIXES = {
    10: (  # AMDSMI_STATUS_NO_PERM
        "This user has no permission to use the AMD driver.",
        (
            "Join its groups (`sudo usermod -a -G render,video $USER`) and log in again; start a container with "
            "`--device /dev/kfd --device /dev/dri --group-add render --group-add video`."
        ),
    ),
    34: ("The AMD driver is not loaded.", "Load it with `sudo modprobe amdgpu`."),  # AMDSMI_STATUS_DRIVER_NOT_LOADED
}
_SHOW = "Start a container with `--device /dev/kfd --device /dev/dri`; elsewhere, check the output of `amd-smi list`."


class _Library:
    """AMD's library, shared by all sources of a process: older releases do not count their initialisations."""

    def __init__(self, amdsmi: ModuleType) -> None:
        self._amdsmi = amdsmi
        self._handles: Mapping[str, Any] = {}
        self._users = 0
        self._users_lock = threading.Lock()
        # A handle that is used while another thread restarts the library points to freed memory. Queries run at the same
        # time: a GPU that is slow to answer delays no other.
        self._calls_lock = threading.Condition()
        self._running = 0

    @property
    def addresses(self) -> Sequence[str]:
        """The GPUs' PCI addresses."""
        return sorted(self._handles)

    def acquire(self) -> None:
        """Initialise the library for its first user."""
        with self._users_lock:
            if not self._users:
                with self._calls_lock:
                    self._initialise()
            self._users += 1

    def release(self) -> None:
        """Shut the library down after the last user."""
        with self._users_lock:
            self._users -= 1
            if not self._users:
                with self._calls_lock:
                    self._calls_lock.wait_for(lambda: not self._running)
                    self._shut_down()

    def restart(self) -> None:
        """Restart the library and list the GPUs again: after a reload of the driver the old handles never work again.

        Raises:
            ReadError: A query of another GPU goes on.
        """
        with self._calls_lock:
            if not self._calls_lock.wait_for(lambda: not self._running, _LONGEST_QUERY_S):
                msg = "Another GPU of the library does not answer."
                raise ReadError(msg)
            self._shut_down()
            self._initialise()

    def _initialise(self) -> None:
        amdsmi = self._amdsmi
        amdsmi.amdsmi_init(amdsmi.AmdSmiInitFlags.INIT_AMD_GPUS)
        try:
            self._find_gpus()
        except BaseException:
            self._shut_down()
            raise

    def _find_gpus(self) -> None:
        amdsmi = self._amdsmi
        addresses: dict[str, Any] = {}
        for handle in amdsmi.amdsmi_get_processor_handles():
            with contextlib.suppress(Exception):  # a lost GPU does not even report its address; skip it
                addresses[amdsmi.amdsmi_get_gpu_device_bdf(handle).lower()] = handle
        self._handles = addresses

    def _shut_down(self) -> None:
        self._handles = {}
        with contextlib.suppress(Exception):
            self._amdsmi.amdsmi_shut_down()

    def query_gpu(self, query: str, address: str) -> Any:  # noqa: ANN401 - a value of the library
        """Return the answer of ``amdsmi_get_<query>`` for the GPU at a PCI address.

        Raises:
            ReadError: The query failed, or this release of the library does not have it.
        """
        try:
            with self._calls_lock:
                if address not in self._handles:
                    self._find_gpus()
                handle = self._handles[address]
                self._running += 1
            try:
                return getattr(self._amdsmi, f"amdsmi_get_{query}")(handle)
            finally:
                with self._calls_lock:
                    self._running -= 1
                    self._calls_lock.notify_all()
        except KeyError as error:
            msg = f"There is no GPU at {address} at present."
            raise ReadError(msg) from error
        except Exception as error:
            raise ReadError(_one_line(error)) from error


@functools.cache
def _library(amdsmi: ModuleType, pid: int) -> _Library:  # noqa: ARG001 - a forked process must not wait for locks of its parent's threads
    """Return the library of this process, which all meters of the process share."""
    return _Library(amdsmi)


def _read_count(library: _Library, address: str) -> tuple[int, float]:
    """Return the raw counter and its unit in J."""
    answer = library.query_gpu("energy_count", address)
    # Earlier releases call the counter "power".
    count, unit = answer.get("energy_accumulator", answer.get("power")), answer.get("counter_resolution")
    if not isinstance(count, int) or count in _UNKNOWN_COUNTS or not isinstance(unit, int | float):
        msg = f"The GPU at {address} reports no energy: {count} times {unit} µJ."
        raise ReadError(msg)
    return count, unit / 1e6


def _read_joules(library: _Library, address: str) -> float:
    count, unit = _read_count(library, address)
    return count * unit


def _read_watts(library: _Library, address: str) -> float:
    answer = library.query_gpu("power_info", address)
    for key in _POWER_KEYS:
        watts = answer.get(key)
        # No GPU draws exactly nothing: a card's second die reports 0.
        if isinstance(watts, int | float) and 0 < watts < _NO_POWER:
            return float(watts)
    msg = f"The GPU at {address} reports no power."
    raise ReadError(msg)


def _read_limit_watts(library: _Library, address: str) -> float | None:
    """Return the power limit of a GPU in W, or None if it reports none."""
    limit = (_query_or_none(library, "power_info", address) or {}).get("power_limit")
    if not isinstance(limit, int | float) or not 0 < limit < _WORD - 1 or limit == _NO_POWER:
        return None
    return limit / 1e6 if limit > _MOST_IN_WATTS else float(limit)


class _PowerGpu:
    """A GPU that reports its power, identified by its PCI address."""

    _query: Callable[[_Library, str], float] = staticmethod(_read_watts)

    def __init__(self, device: Device, library: _Library, address: str) -> None:
        library.acquire()
        self.device = device
        self._library = library
        self._address = address
        self._failures = 0
        self._patience = _REACQUIRE_AFTER
        self._open = True

    def read(self) -> float:
        """Return joules, or watts if the GPU has no energy counter."""
        if not self._open:
            msg = "The GPU is closed."
            raise ReadError(msg)
        try:
            if self._failures >= self._patience:
                self._patience *= 2
                self._restart()
            value = self._query(self._library, self._address)
        except ReadError:
            self._failures += 1
            raise
        self._failures, self._patience = 0, _REACQUIRE_AFTER
        return value

    def _restart(self) -> None:
        try:
            self._library.restart()
        except Exception as error:
            raise ReadError(_one_line(error)) from error

    def close(self) -> None:
        """Release the library; calling it twice is harmless."""
        if self._open:
            self._open = False
            self._library.release()


class _EnergyGpu(_PowerGpu):
    """A GPU with an energy counter."""

    _query = staticmethod(_read_joules)

    def watts(self) -> float:
        """Return the socket's present power in W, for comparison: on some GPUs the counter is frozen or has another unit."""
        if not self._open:
            msg = "The GPU is closed."
            raise ReadError(msg)
        return _read_watts(self._library, self._address)


@dataclass(frozen=True, slots=True)
class _Gpu:
    """A GPU as the system shows it: a card, a die of a card, or a partition of a GPU.

    Attributes:
        address: PCI address, domain:bus:device.function.
        uuid: The library's id of it, or its PCI address.
        name: Its market name.
        apu: Whether it is part of a processor, so that its figure is the whole package's.
        covers: Other kinds of devices in its package.
        two_dies: Whether it is one of two dies that share a counter.
        node: A number that rises in the order in which ROCm and HIP number the GPUs; None if unknown.
        hip_uuid: ROCm's name of it, ``GPU-<16 hex digits>``.
    """

    address: str
    uuid: str
    name: str
    apu: bool
    covers: tuple[Kind, ...]
    two_dies: bool
    node: int | None
    hip_uuid: str


@dataclass(slots=True)
class _Card:
    """GPUs whose energy is reported as one figure.

    Attributes:
        gpus: All of them, in order of their PCI addresses.
        counter: Address of the GPU that reports the joules, or None.
        power: Address of the GPU that reports the watts, or None.
        wrap: Modulus of the counter in J, or None.
    """

    gpus: list[_Gpu] = field(default_factory=list)
    counter: str | None = None
    power: str | None = None
    wrap: float | None = None

    @property
    def reporting_address(self) -> str | None:
        return self.counter or self.power

    def detect_reporting_gpu(self, library: _Library) -> None:
        """Find out which GPU reports the joules or the watts, by querying each."""
        for gpu in self.gpus:
            with contextlib.suppress(ReadError):
                count, unit = _read_count(library, gpu.address)
                # On Navi and MI100 it has 32 bits (EnergyAccumulator in smu11_driver_if_*.h): it wraps at 66 kJ, after
                # minutes. A value below 2^32 may be of either width; a counter of 64 bits wraps only at 10^14 J.
                self.counter, self.wrap = gpu.address, _WORD * unit if count < _WORD else None
                return
        for gpu in self.gpus:
            with contextlib.suppress(ReadError):
                _read_watts(library, gpu.address)
                self.power = gpu.address
                return


class AmdBackend:
    """The AMD GPUs that ``ROCR_VISIBLE_DEVICES`` and ``HIP_VISIBLE_DEVICES`` select."""

    name = "amd"

    def __init__(self, root: Path = Path("/"), environ: Mapping[str, str] = Environment()) -> None:
        """Look for the driver below ``root``, and read ``*_VISIBLE_DEVICES`` from ``environ``."""
        self._root = root
        self._environ = environ

    def open(self) -> Sequence[_PowerGpu]:
        """Open each visible GPU.

        Raises:
            BackendUnavailableError: There is no GPU, no library, or no GPU whose energy or power can be read.
        """
        nodes = _rocm_nodes(self._root / _KFD)
        bound = any((self._root / _BOUND).glob("*:*:*.*"))
        if not nodes and not bound:
            msg = "This machine has no AMD GPU."
            raise BackendUnavailableError(msg)
        present = self._is_energy_missing(nodes) if (self._root / _KFD).exists() else bound and not hides_all(self._environ)
        library = _library(_import_amdsmi(present=present), os.getpid())
        try:
            library.acquire()
        except Exception as error:
            reason, fix = _FIXES.get(
                getattr(error, "err_code", 0), (f"AMD's library cannot be used: {_one_line(error)}.", None)
            )
            raise BackendUnavailableError(reason, fix, present=present) from error
        try:
            return self._open_all(library, nodes, present=present)
        finally:
            library.release()

    def _is_energy_missing(self, nodes: Mapping[str, Node]) -> bool:
        """Return whether energy would be missing if no GPU were read: one is usable, and RAPL does not include its energy."""
        # By ROCm's nodes, because a container shows every GPU on the host's bus.
        ordered = sorted(nodes.values(), key=lambda node: node.number)
        return any(not ordered[i].apu for i in select_visible(self._environ, [node.uuid for node in ordered]))

    def _open_all(self, library: _Library, nodes: Mapping[str, Node], *, present: bool) -> Sequence[_PowerGpu]:
        gpus = _identify_gpus(library, nodes)
        if not gpus:
            msg = "AMD's library lists no GPU that answers."
            raise BackendUnavailableError(msg, _SHOW, present=present)
        visible, notes = self._select_visible(gpus)
        if not visible:
            msg = "ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES hides every AMD GPU."
            raise BackendUnavailableError(msg)
        cards = [card for card in _group_into_cards(gpus, library) if any(gpu in visible for gpu in card.gpus)]
        reporting = [card for card in cards if card.reporting_address is not None]
        if not reporting:
            msg = "No AMD GPU of this machine reports its energy or its power; GPUs of virtual machines do not."
            raise BackendUnavailableError(msg, present=present)
        silent = [card.gpus[0].address for card in cards if card.reporting_address is None and not card.gpus[0].apu]
        missing = " ".join(
            f"The GPU at {address} reports neither energy nor power: its energy is not included." for address in silent
        )
        return [self._open_card(card, library, visible, notes, missing or None) for card in reporting]

    def _open_card(
        self, card: _Card, library: _Library, visible: Sequence[_Gpu], notes: Sequence[str], missing: str | None
    ) -> _PowerGpu:
        gpu = next(gpu for gpu in card.gpus if gpu.address == card.reporting_address)
        own = []
        if gpu.apu:
            own.append("The figure is for the whole package: processor and graphics.")
        if len(card.gpus) > 1:
            own.append(
                f"The figure is for the whole card: the system shows it as {len(card.gpus)} GPUs, which report one figure."
            )
        device = Device(
            id=f"{self.name}:{gpu.uuid}",
            name=gpu.name,
            kind="cpu" if gpu.apu else "gpu",
            backend=self.name,
            method="power_integration" if card.counter is None else "energy_counter",
            provenance="measured",
            relative_uncertainty=RELATIVE_UNCERTAINTY,
            wrap_joules=card.wrap,
            note=" ".join([*own, *notes]) or None,
            missing=missing,
            covers=gpu.covers,
            shared=not all(member in visible for member in card.gpus),
            max_watts=_read_limit_watts(library, gpu.address),
        )
        return (_PowerGpu if card.counter is None else _EnergyGpu)(device, library, gpu.address)

    def _select_visible(self, gpus: Sequence[_Gpu]) -> tuple[Sequence[_Gpu], list[str]]:
        """Return the GPUs that ROCm and HIP show, and a note if that is not certain."""
        if not selects_gpus(self._environ):
            return gpus, []
        if hides_all(self._environ):
            return [], []
        if any(gpu.node is None for gpu in gpus):
            return gpus, ["The GPUs that *_VISIBLE_DEVICES selects cannot be identified, so all are counted."]
        ordered = sorted(gpus, key=lambda gpu: gpu.node or 0)
        return [ordered[i] for i in select_visible(self._environ, [gpu.hip_uuid for gpu in ordered])], []


def _identify_gpus(library: _Library, nodes: Mapping[str, Node]) -> Sequence[_Gpu]:
    uuids = {address: _query_or_none(library, "gpu_device_uuid", address) for address in library.addresses}
    known = [uuid for uuid in uuids.values() if uuid]
    ids = {address: _query_or_none(library, "gpu_enumeration_info", address) or {} for address in library.addresses}
    reports_order = all(isinstance(info.get("hip_id"), int) for info in ids.values())
    gpus = []
    for address, uuid in uuids.items():
        chip = _query_or_none(library, "gpu_asic_info", address) or {}
        node = nodes.get(address)
        if reports_order:
            number, hip_uuid = ids[address]["hip_id"], ids[address]["hip_uuid"]
        else:
            number, hip_uuid = (None, "") if node is None else (node.number, node.uuid)
        name = chip.get("market_name", "N/A")
        pci_id = _pci_id(chip)
        gpus.append(
            _Gpu(
                address,
                # GPUs without a unique number all report the same one.
                uuid if uuid and known.count(uuid) == 1 else address,
                "AMD GPU" if name == "N/A" else name,
                apu=(node is not None and node.apu) or chip.get("target_graphics_version") in APUS,
                covers=("cpu", "dram") if pci_id == _MI300A else (),
                two_dies=pci_id in _TWO_DIES,
                node=number,
                hip_uuid=hip_uuid,
            )
        )
    return gpus


def _group_into_cards(gpus: Sequence[_Gpu], library: _Library) -> Sequence[_Card]:
    """Group the GPUs that share one figure: the partitions of a GPU, the two dies of an MI250."""
    by_address: dict[str, _Card] = {}
    for gpu in gpus:
        # Partitions differ only in the PCI function.
        by_address.setdefault(gpu.address.rpartition(".")[0], _Card()).gpus.append(gpu)
    cards = list(by_address.values())
    for card in cards:
        card.detect_reporting_gpu(library)
    dies = [card for card in cards if card.gpus[0].two_dies]
    for one, other in zip(dies[::2], dies[1::2], strict=False):
        # The dies of a card are neighbours on the bus, and one of them reports for both.
        if (one.reporting_address is None) != (other.reporting_address is None):
            reporting, silent = (other, one) if one.reporting_address is None else (one, other)
            reporting.gpus = sorted(reporting.gpus + silent.gpus, key=lambda gpu: gpu.address)
            cards.remove(silent)
    return cards


def _rocm_nodes(root: Path) -> Mapping[str, Node]:
    """Return the GPUs among ROCm's nodes, by their PCI addresses."""
    nodes: dict[str, Node] = {}
    for file in root.glob("[0-9]*/properties"):
        node = parse_node(file.parent.name, read_text(file) or "")
        if node is not None:
            nodes[node.address] = node
    return nodes


def _import_amdsmi(*, present: bool) -> ModuleType:
    try:
        return importlib.import_module("amdsmi")
    except ModuleNotFoundError as error:
        if error.name != "amdsmi":
            raise BackendUnavailableError(_load_error_text(error), _INSTALL, present=present) from error
        msg = "There is an AMD GPU, but the package amdsmi is not installed."
        raise BackendUnavailableError(msg, _INSTALL, present=present) from error
    except Exception as error:
        fix = "Install ROCm's amd-smi-lib in the same release as the package amdsmi; in a container, mount it."
        raise BackendUnavailableError(_load_error_text(error), fix, present=present) from error


def _load_error_text(error: Exception) -> str:
    return f"The package amdsmi cannot load AMD's library (libamd_smi.so): {type(error).__name__}: {_one_line(error)}."


def _pci_id(chip: Mapping[str, Any]) -> int | None:
    try:
        return int(str(chip.get("device_id")), 0)
    except ValueError:
        return None


def _query_or_none(library: _Library, query: str, address: str) -> Any:  # noqa: ANN401 - a value of the library
    try:
        return library.query_gpu(query, address)
    except ReadError:
        return None


def _one_line(error: Exception) -> str:
    """Return an error's message in one line."""
    return " ".join(str(error).split()).rstrip(".")
