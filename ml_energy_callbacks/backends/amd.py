"""AMD GPUs through AMD's management library: the energy counter, or socket power where there is none."""

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
from ml_energy_callbacks.backends.drivers.rocm_visible import APUS, Node, none_shown, parse_node, restricted, shown
from ml_energy_callbacks.backends.drivers.sysfs import read_text
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device, Kind

RELATIVE_UNCERTAINTY = 0.10
"""Our assumption, as for NVIDIA's: AMD states no accuracy. The library multiplies by 15.3 µJ, where the kernel's header
(kgd_pp_interface.h) says 2^-16 J = 15.259 µJ: 0.3 % of it."""

_REACQUIRE_AFTER = 20
"""Failed reads until the first attempt to get hold of a lost GPU, about a second; then twice as many each time, for starting
the library anew takes a while, in which no other GPU is read."""

_WORD = 2**32
_UNKNOWN_COUNTS = frozenset({0, _WORD - 1, 2**64 - 1})
"""What the driver shows instead of a counter: 0 on a card's second die (aldebaran_ppt.c), all ones on GPUs without one and
where the firmware has given it up (smu_v13_0_0_ppt.c, smu_v14_0_2_ppt.c)."""

_POWER_KEYS = ("current_socket_power", "average_socket_power", "socket_power")
"""Watts: MI300 and later tell the first, others the second; the third holds whichever there is, in later releases."""
_NO_POWER = 0xFFFF
"""The driver's fields have 16 bits; all ones is "not told", and some releases pass on wider ones, or µW, as they are."""

_TWO_DIES = frozenset({0x7408, 0x740C})
"""PCI ids of MI250X and MI250: two GPUs to the system, one counter."""

_MI300A = 0x74A0

_KFD = "sys/class/kfd/kfd/topology/nodes"
"""ROCm's nodes: what a container shows of other containers' GPUs cannot be read (kfd_topology.c)."""
_BOUND = "sys/bus/pci/drivers/amdgpu"

_INSTALL = "Install it with `pip install 'ml-energy-callbacks[amd]'`, in the release that fits your ROCm."
_FIXES = {
    10: (  # AMDSMI_STATUS_NO_PERM
        "This user may not use the AMD driver.",
        (
            "Join its groups (`sudo usermod -a -G render,video $USER`) and log in again; a container has to be started with "
            "`--device /dev/kfd --device /dev/dri --group-add render --group-add video`."
        ),
    ),
    34: ("The AMD driver is not loaded.", "Load it with `sudo modprobe amdgpu`."),  # AMDSMI_STATUS_DRIVER_NOT_LOADED
}
_SHOW = "A container has to be started with `--device /dev/kfd --device /dev/dri`; elsewhere, see what `amd-smi list` says."


class _Library:
    """AMD's library, shared by all our sources: older releases do not count how often they were initialised."""

    def __init__(self, amdsmi: ModuleType) -> None:
        self._amdsmi = amdsmi
        self._handles: Mapping[str, Any] = {}
        self._users = 0
        self._counting = threading.Lock()
        # A handle that is used while another thread starts the library anew points to freed memory.
        self._calling = threading.Lock()

    @property
    def places(self) -> Sequence[str]:
        """The GPUs' places on the PCI bus."""
        return sorted(self._handles)

    def acquire(self) -> None:
        """Initialise the library where nobody has yet."""
        with self._counting:
            if not self._users:
                with self._calling:
                    self._start()
            self._users += 1

    def release(self) -> None:
        """Shut the library down after the last user."""
        with self._counting:
            self._users -= 1
            if not self._users:
                with self._calling:
                    self._stop()

    def restart(self) -> None:
        """Find the GPUs anew: after a reload of the driver the old handles are dead for good."""
        with self._calling:
            self._stop()
            self._start()

    def _start(self) -> None:
        amdsmi = self._amdsmi
        amdsmi.amdsmi_init(amdsmi.AmdSmiInitFlags.INIT_AMD_GPUS)
        try:
            self._find()
        except BaseException:
            self._stop()
            raise

    def _find(self) -> None:
        amdsmi = self._amdsmi
        places: dict[str, Any] = {}
        for handle in amdsmi.amdsmi_get_processor_handles():
            with contextlib.suppress(Exception):  # a lost GPU does not even tell its place; the others go on
                places[amdsmi.amdsmi_get_gpu_device_bdf(handle).lower()] = handle
        self._handles = places

    def _stop(self) -> None:
        self._handles = {}
        with contextlib.suppress(Exception):
            self._amdsmi.amdsmi_shut_down()

    def ask(self, query: str, place: str) -> Any:  # noqa: ANN401 - what the library answers
        """Return the answer of ``amdsmi_get_<query>`` for the GPU at a place.

        Raises:
            ReadError: There is none, be it that the library, or this release of it, cannot tell.
        """
        with self._calling:
            try:
                if place not in self._handles:
                    self._find()
                return getattr(self._amdsmi, f"amdsmi_get_{query}")(self._handles[place])
            except KeyError as error:
                msg = f"There is no GPU at {place} now."
                raise ReadError(msg) from error
            except Exception as error:
                raise ReadError(_plain(error)) from error


@functools.cache
def _library(amdsmi: ModuleType, pid: int) -> _Library:  # noqa: ARG001 - a forked process must not wait for our threads' locks
    """Return the one of this process, whoever opens it: two meters may measure at once."""
    return _Library(amdsmi)


def _count(library: _Library, place: str) -> tuple[int, float]:
    """Return the counter as it is, and its unit in J."""
    answer = library.ask("energy_count", place)
    # Earlier releases call the counter "power".
    count, unit = answer.get("energy_accumulator", answer.get("power")), answer.get("counter_resolution")
    if not isinstance(count, int) or count in _UNKNOWN_COUNTS or not isinstance(unit, int | float):
        msg = f"The GPU at {place} tells no energy: {count} times {unit} µJ."
        raise ReadError(msg)
    return count, unit / 1e6


def _joules(library: _Library, place: str) -> float:
    count, unit = _count(library, place)
    return count * unit


def _watts(library: _Library, place: str) -> float:
    answer = library.ask("power_info", place)
    for key in _POWER_KEYS:
        watts = answer.get(key)
        # None draws exactly nothing: 0 is what a card's second die tells.
        if isinstance(watts, int | float) and 0 < watts < _NO_POWER:
            return float(watts)
    msg = f"The GPU at {place} tells no power."
    raise ReadError(msg)


class _PowerGpu:
    """A GPU that tells its power, held by its place on the bus."""

    _query: Callable[[_Library, str], float] = staticmethod(_watts)

    def __init__(self, device: Device, library: _Library, place: str) -> None:
        library.acquire()
        self.device = device
        self._library = library
        self._place = place
        self._failures = 0
        self._patience = _REACQUIRE_AFTER
        self._open = True

    def read(self) -> float:
        """Return joules, or watts where the GPU has no energy counter."""
        if not self._open:
            msg = "The GPU is closed."
            raise ReadError(msg)
        try:
            if self._failures >= self._patience:
                self._patience *= 2
                self._restart()
            value = self._query(self._library, self._place)
        except ReadError:
            self._failures += 1
            raise
        self._failures, self._patience = 0, _REACQUIRE_AFTER
        return value

    def _restart(self) -> None:
        try:
            self._library.restart()
        except Exception as error:
            raise ReadError(_plain(error)) from error

    def close(self) -> None:
        """Give the library back; calling it twice is harmless."""
        if self._open:
            self._open = False
            self._library.release()


class _EnergyGpu(_PowerGpu):
    """A GPU that counts its joules."""

    _query = staticmethod(_joules)

    def watts(self) -> float:
        """Return the socket's power in W now: on some GPUs the counter stands still, or counts in another unit."""
        if not self._open:
            msg = "The GPU is closed."
            raise ReadError(msg)
        return _watts(self._library, self._place)


@dataclass(frozen=True, slots=True)
class _Gpu:
    """What the system shows as one GPU: a card, a die of one or a partition of one.

    Attributes:
        place: PCI domain:bus:device.function.
        uuid: The library's id of it, or its place.
        name: Its market name.
        apu: Whether it is inside a processor, and its figure is the whole package's.
        covers: What else is inside its package.
        two_dies: Whether it is one of two dies that share a counter.
        node: A number in whose order ROCm and HIP count the GPUs; None where that is not known.
        hip_uuid: The name that ROCm knows it by, ``GPU-<16 hex digits>``.
    """

    place: str
    uuid: str
    name: str
    apu: bool
    covers: tuple[Kind, ...]
    two_dies: bool
    node: int | None
    hip_uuid: str


@dataclass(slots=True)
class _Card:
    """GPUs whose energy is told in one figure.

    Attributes:
        gpus: All of them, in order of their places.
        counter: The place that tells the joules, or None.
        power: The place that tells the watts, or None.
        wrap: Modulus of the counter in J, or None.
    """

    gpus: list[_Gpu] = field(default_factory=list)
    counter: str | None = None
    power: str | None = None
    wrap: float | None = None

    @property
    def teller(self) -> str | None:
        return self.counter or self.power

    def probe(self, library: _Library) -> None:
        """Find out who tells the joules or the watts, by asking."""
        for gpu in self.gpus:
            with contextlib.suppress(ReadError):
                count, unit = _count(library, gpu.place)
                # On Navi and MI100 it has 32 bits (EnergyAccumulator in smu11_driver_if_*.h): 66 kJ, minutes. Where it is
                # below, nobody knows; a counter of 64 bits then just goes on, and its own wrap is 10^14 J away.
                self.counter, self.wrap = gpu.place, _WORD * unit if count < _WORD else None
                return
        for gpu in self.gpus:
            with contextlib.suppress(ReadError):
                _watts(library, gpu.place)
                self.power = gpu.place
                return


class AmdBackend:
    """AMD GPUs, those that ``ROCR_VISIBLE_DEVICES`` and ``HIP_VISIBLE_DEVICES`` show."""

    name = "amd"

    def __init__(self, root: Path = Path("/"), environ: Mapping[str, str] = Environment()) -> None:
        """Look for the driver below ``root``, and take ``*_VISIBLE_DEVICES`` from this environment."""
        self._root = root
        self._environ = environ

    def open(self) -> Sequence[_PowerGpu]:
        """Open each visible GPU.

        Raises:
            BackendUnavailableError: There is no GPU, no library, or none whose energy or power can be read.
        """
        nodes = _rocm_nodes(self._root / _KFD)
        bound = any((self._root / _BOUND).glob("*:*:*.*"))
        if not nodes and not bound:
            msg = "This machine has no AMD GPU."
            raise BackendUnavailableError(msg)
        present = self._missed(nodes) if (self._root / _KFD).exists() else bound and not none_shown(self._environ)
        library = _library(_load(present=present), os.getpid())
        try:
            library.acquire()
        except Exception as error:
            reason, fix = _FIXES.get(getattr(error, "err_code", 0), (f"AMD's library cannot be used: {_plain(error)}.", None))
            raise BackendUnavailableError(reason, fix, present=present) from error
        try:
            return self._open_all(library, nodes, present=present)
        finally:
            library.release()

    def _missed(self, nodes: Mapping[str, Node]) -> bool:
        """Return whether energy is missing where no GPU can be read: one is usable here, and RAPL does not tell its energy."""
        # By the nodes, for a container shows every GPU of the host's bus.
        ordered = sorted(nodes.values(), key=lambda node: node.number)
        return any(not ordered[i].apu for i in shown(self._environ, [node.uuid for node in ordered]))

    def _open_all(self, library: _Library, nodes: Mapping[str, Node], *, present: bool) -> Sequence[_PowerGpu]:
        gpus = _identify(library, nodes)
        if not gpus:
            msg = "AMD's library shows no GPU that answers."
            raise BackendUnavailableError(msg, _SHOW, present=present)
        visible, notes = self._visible(gpus)
        if not visible:
            msg = "ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES hides every AMD GPU."
            raise BackendUnavailableError(msg)
        cards = [card for card in _cards(gpus, library) if any(gpu in visible for gpu in card.gpus)]
        telling = [card for card in cards if card.teller is not None]
        if not telling:
            msg = "No AMD GPU here tells its energy or its power; those of virtual machines do not."
            raise BackendUnavailableError(msg, present=present)
        silent = [card.gpus[0].place for card in cards if card.teller is None and not card.gpus[0].apu]
        missing = " ".join(f"The GPU at {place} tells neither energy nor power: its energy is missing." for place in silent)
        return [self._open_card(card, library, visible, notes, missing or None) for card in telling]

    def _open_card(
        self, card: _Card, library: _Library, visible: Sequence[_Gpu], notes: Sequence[str], missing: str | None
    ) -> _PowerGpu:
        gpu = next(gpu for gpu in card.gpus if gpu.place == card.teller)
        own = []
        if gpu.apu:
            own.append("The figure is the whole package's: the processor's and its graphics'.")
        if len(card.gpus) > 1:
            own.append(f"The whole card: the system shows {len(card.gpus)} GPUs, and their energy is told in one figure.")
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
        )
        return (_PowerGpu if card.counter is None else _EnergyGpu)(device, library, gpu.place)

    def _visible(self, gpus: Sequence[_Gpu]) -> tuple[Sequence[_Gpu], list[str]]:
        """Return the GPUs that ROCm and HIP show, and a note where that is not certain."""
        if not restricted(self._environ):
            return gpus, []
        if none_shown(self._environ):
            return [], []
        if any(gpu.node is None for gpu in gpus):
            return gpus, ["It is not known which GPUs the *_VISIBLE_DEVICES show, so all are counted."]
        ordered = sorted(gpus, key=lambda gpu: gpu.node or 0)
        return [ordered[i] for i in shown(self._environ, [gpu.hip_uuid for gpu in ordered])], []


def _identify(library: _Library, nodes: Mapping[str, Node]) -> Sequence[_Gpu]:
    uuids = {place: _or_nothing(library, "gpu_device_uuid", place) for place in library.places}
    known = [uuid for uuid in uuids.values() if uuid]
    ids = {place: _or_nothing(library, "gpu_enumeration_info", place) or {} for place in library.places}
    tells_order = all(isinstance(info.get("hip_id"), int) for info in ids.values())
    gpus = []
    for place, uuid in uuids.items():
        chip = _or_nothing(library, "gpu_asic_info", place) or {}
        node = nodes.get(place)
        if tells_order:
            number, hip_uuid = ids[place]["hip_id"], ids[place]["hip_uuid"]
        else:
            number, hip_uuid = (None, "") if node is None else (node.number, node.uuid)
        name = chip.get("market_name", "N/A")
        pci_id = _pci_id(chip)
        gpus.append(
            _Gpu(
                place,
                # GPUs that have no number of their own all show the same.
                uuid if uuid and known.count(uuid) == 1 else place,
                "AMD GPU" if name == "N/A" else name,
                apu=(node is not None and node.apu) or chip.get("target_graphics_version") in APUS,
                covers=("cpu", "dram") if pci_id == _MI300A else (),
                two_dies=pci_id in _TWO_DIES,
                node=number,
                hip_uuid=hip_uuid,
            )
        )
    return gpus


def _cards(gpus: Sequence[_Gpu], library: _Library) -> Sequence[_Card]:
    """Put together the GPUs that one figure is told for: the partitions of a GPU, the two dies of an MI250."""
    by_place: dict[str, _Card] = {}
    for gpu in gpus:
        # Partitions differ in the PCI function alone.
        by_place.setdefault(gpu.place.rpartition(".")[0], _Card()).gpus.append(gpu)
    cards = list(by_place.values())
    for card in cards:
        card.probe(library)
    dies = [card for card in cards if card.gpus[0].two_dies]
    for one, other in zip(dies[::2], dies[1::2], strict=False):
        # The dies of a card follow each other on the bus, and one of them tells for both.
        if (one.teller is None) != (other.teller is None):
            telling, silent = (other, one) if one.teller is None else (one, other)
            telling.gpus = sorted(telling.gpus + silent.gpus, key=lambda gpu: gpu.place)
            cards.remove(silent)
    return cards


def _rocm_nodes(root: Path) -> Mapping[str, Node]:
    """Return the GPUs among ROCm's nodes, by their places."""
    nodes: dict[str, Node] = {}
    for file in root.glob("[0-9]*/properties"):
        node = parse_node(file.parent.name, read_text(file) or "")
        if node is not None:
            nodes[node.place] = node
    return nodes


def _load(*, present: bool) -> ModuleType:
    try:
        return importlib.import_module("amdsmi")
    except ModuleNotFoundError as error:
        if error.name != "amdsmi":
            raise BackendUnavailableError(_cannot_load(error), _INSTALL, present=present) from error
        msg = "There is an AMD GPU, and the package amdsmi is not installed."
        raise BackendUnavailableError(msg, _INSTALL, present=present) from error
    except Exception as error:
        fix = "Install ROCm's amd-smi-lib, in the release of the package amdsmi; in a container, mount it."
        raise BackendUnavailableError(_cannot_load(error), fix, present=present) from error


def _cannot_load(error: Exception) -> str:
    return f"The package amdsmi cannot load AMD's library (libamd_smi.so): {type(error).__name__}: {_plain(error)}."


def _pci_id(chip: Mapping[str, Any]) -> int | None:
    try:
        return int(str(chip.get("device_id")), 0)
    except ValueError:
        return None


def _or_nothing(library: _Library, query: str, place: str) -> Any:  # noqa: ANN401 - what the library answers
    try:
        return library.ask(query, place)
    except ReadError:
        return None


def _plain(error: Exception) -> str:
    """Return the message in one line."""
    return " ".join(str(error).split()).rstrip(".")
