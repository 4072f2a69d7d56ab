"""Simulated AMD GPUs: a replacement of the module ``amdsmi``, and the driver's files."""

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, Literal, Self

from ml_energy_callbacks.clock import Clock
from ml_energy_callbacks.testing.curves import Curve, refreshed

RESOLUTION_UJ: Final = ctypes.c_float(15.3).value
"""The value that the real library reports for every GPU: 15.3 in single precision."""

NOT_SUPPORTED: Final = 2
NO_PERM: Final = 10
NOT_FOUND: Final = 31
NOT_INIT: Final = 32
DRIVER_NOT_LOADED: Final = 34
"""Statuses of amdsmi.h, ``AMDSMI_STATUS_*``, which are among the values of :attr:`SimulatedAmdGpu.error`."""

_FUNCTIONS_PER_DEVICE = 8


class AmdSmiException(Exception):  # noqa: N818 - the real one's name
    """Base class of the library's errors."""


class AmdSmiLibraryException(AmdSmiException):
    """A status other than success."""

    def __init__(self, err_code: int) -> None:
        """Store the status."""
        super().__init__(err_code)
        self.err_code = err_code

    def __str__(self) -> str:
        """Return the message in two lines, as the real library does."""
        return f"Error code:\n\t{self.err_code} | AMDSMI_STATUS_{self.err_code} - simulated"


class AmdSmiInitFlags(IntEnum):
    """Kinds of devices to look for."""

    INIT_AMD_GPUS = 2


@dataclass(slots=True)
class SimulatedAmdGpu:
    """A GPU as the system shows it; each attribute may be changed while it runs.

    Attributes:
        curve: Its true power.
        place: PCI address, domain:bus:device.function.
        node: Its number among ROCm's nodes, whose order is HIP's; None for its position in the list, after one processor.
        unique_id: The number in its UUID; 0 for a GPU without one.
        name: Its market name.
        device_id: Its PCI device id.
        graphics: Its graphics version.
        counter: ``counts``, ``frozen`` (does not change), ``absent`` (all ones), ``silent`` (0, as on a card's second die) or
            ``refused`` (the query fails).
        counter_rate: Factor by which the counter runs too fast.
        counter_bits: Width of the counter.
        refresh_s: Its refresh period in s.
        start_joules: Value of the counter at the start of the curve.
        power: The key that reports the power, in whole watts; None if all are "N/A".
        error: Status with which every query of the GPU fails, or 0.
    """

    curve: Curve
    place: str = "0000:03:00.0"
    node: int | None = None
    unique_id: int = 0x1234
    name: str = "AMD Instinct MI300X"
    device_id: int = 0x74A1
    graphics: str = "gfx942"
    counter: Literal["counts", "frozen", "absent", "silent", "refused"] = "counts"
    counter_rate: float = 1.0
    counter_bits: int = 64
    refresh_s: float = 0.001
    start_joules: float = 100_000.0
    power: str | None = "current_socket_power"
    error: int = 0


def _graphics_number(name: str) -> int:
    """Return a graphics version in the form of Linux's kfd_device.c: gfx90c is 90012."""
    return 10_000 * int(name[3:-2]) + 100 * int(name[-2], 16) + int(name[-1], 16)


@dataclass(frozen=True, slots=True)
class _Handle:
    gpu: int
    generation: int


class SimulatedAmd:
    """AMD's library with its GPUs: inside the context, ``import amdsmi`` imports it.

    It has those functions, exceptions and dictionary keys of amdsmi 7.0.2 that find GPUs and read their energy and power, and
    writes the driver's devices and ROCm's nodes below ``root``; pass the same ``root`` to the backend.

    Attributes:
        gpus: The GPUs, in the order in which the library lists them.
        init_error: Status with which initialisation fails, or 0.
        import_error: Error that ``import amdsmi`` raises, set before the context begins; None if it works.
        starts: Number of initialisations of the library.
        stops: Number of times the library was shut down.
    """

    def __init__(
        self,
        clock: Clock,
        gpus: Sequence[SimulatedAmdGpu],
        root: Path,
        *,
        tells_order: bool = True,
        counter_key: str = "energy_accumulator",
    ) -> None:
        """Write the driver's files.

        Args:
            clock: Clock of the GPUs.
            gpus: The GPUs.
            root: Root of the file system.
            tells_order: Whether the library has ``amdsmi_get_gpu_enumeration_info``, as since ROCm 7.
            counter_key: The key of the counter; earlier releases use ``power``.
        """
        self.gpus = list(gpus)
        self.init_error = 0
        self.import_error: Exception | None = None
        self.starts = self.stops = 0
        self._clock = clock
        self._counter_key = counter_key
        self._initialised = False
        self._generation = 0  # of the handles
        self._driver = 0  # number of reloads
        self._attached_driver = 0  # value of _driver when the library was initialised
        self._zeros = [0.0] * len(self.gpus)
        self._replaced: ModuleType | None = None
        self._root = root
        self.module = self._make_module(tells_order=tells_order)
        self._write_nodes()

    def __enter__(self) -> Self:
        """Replace the module."""
        self._replaced = sys.modules.pop("amdsmi", None)
        if self.import_error is None:
            sys.modules["amdsmi"] = self.module
        else:
            sys.meta_path.insert(0, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Restore the module."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        sys.modules.pop("amdsmi", None)
        if self._replaced is not None:
            sys.modules["amdsmi"] = self._replaced

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002 - Python's interface
        """Raise the import error, as one of Python's module finders."""
        if name == "amdsmi" and self.import_error is not None:
            raise self.import_error

    def reload(self) -> None:
        """Reload the driver: counters are reset, and handles are invalid until the library is initialised again."""
        self._driver += 1
        now = self._clock()
        self._zeros = [gpu.curve.joules(now) for gpu in self.gpus]
        for gpu in self.gpus:
            gpu.start_joules = 1.0

    def _node(self, index: int) -> int:
        node = self.gpus[index].node
        return index + 1 if node is None else node

    def _write_nodes(self) -> None:
        nodes = self._root / "sys/class/kfd/kfd/topology/nodes"
        self._write_node(nodes / "0", cpu_cores_count=64, simd_count=0, location_id=0, domain=0, unique_id=0)
        for i, gpu in enumerate(self.gpus):
            (self._root / "sys/bus/pci/drivers/amdgpu" / gpu.place).mkdir(parents=True, exist_ok=True)
            domain, bus, rest = gpu.place.split(":")
            device, function = (int(part, 16) for part in rest.split("."))
            at = int(bus, 16) << 8 | device * _FUNCTIONS_PER_DEVICE + function
            self._write_node(
                nodes / str(self._node(i)),
                cpu_cores_count=0,
                simd_count=1216,
                location_id=at,
                domain=int(domain, 16),
                unique_id=gpu.unique_id,
                gfx_target_version=_graphics_number(gpu.graphics),
            )

    @staticmethod
    def _write_node(folder: Path, **properties: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name} {number}\n" for name, number in properties.items())
        (folder / "properties").write_text(lines, encoding="ascii")

    def _make_module(self, *, tells_order: bool) -> ModuleType:
        module: Any = ModuleType("amdsmi")
        module.AmdSmiException = AmdSmiException
        module.AmdSmiLibraryException = AmdSmiLibraryException
        module.AmdSmiInitFlags = AmdSmiInitFlags
        module.amdsmi_init = self._initialise
        module.amdsmi_shut_down = self._shut_down
        module.amdsmi_get_processor_handles = self._handles
        module.amdsmi_get_gpu_device_bdf = self._make_query(lambda i: self.gpus[i].place)
        module.amdsmi_get_gpu_device_uuid = self._make_query(self._uuid)
        module.amdsmi_get_gpu_asic_info = self._make_query(self._asic_info)
        module.amdsmi_get_energy_count = self._make_query(self._energy_count)
        module.amdsmi_get_power_info = self._make_query(self._power_info)
        if tells_order:
            module.amdsmi_get_gpu_enumeration_info = self._make_query(self._enumeration_info)
        made: ModuleType = module
        return made

    def _initialise(self, flag: AmdSmiInitFlags = AmdSmiInitFlags.INIT_AMD_GPUS) -> None:  # noqa: ARG002 - the real one's argument
        if self.init_error:
            raise AmdSmiLibraryException(self.init_error)
        self.starts += 1
        if not self._initialised:
            self._initialised = True
            self._generation += 1
            self._attached_driver = self._driver

    def _shut_down(self) -> None:
        self.stops += 1
        self._initialised = False

    def _handles(self) -> list[_Handle]:
        if not self._initialised:
            raise AmdSmiLibraryException(NOT_INIT)
        return [_Handle(i, self._generation) for i in range(len(self.gpus))]

    def _make_query(self, answer: Callable[[int], Any]) -> Callable[[_Handle], Any]:
        def query(processor_handle: _Handle) -> Any:  # noqa: ANN401 - a string or a dictionary
            if not self._initialised:
                raise AmdSmiLibraryException(NOT_INIT)
            if processor_handle.generation != self._generation or self._attached_driver != self._driver:
                raise AmdSmiLibraryException(NOT_FOUND)
            if error := self.gpus[processor_handle.gpu].error:
                raise AmdSmiLibraryException(error)
            return answer(processor_handle.gpu)

        return query

    def _uuid(self, index: int) -> str:
        number = self.gpus[index].unique_id
        if not number:
            raise AmdSmiLibraryException(NOT_SUPPORTED)
        return f"{number & 0xFF:02x}ff{self.gpus[index].device_id:04x}-0000-1000-80{number >> 48 & 0xFF:02x}-{number:012x}"

    def _asic_info(self, index: int) -> dict[str, Any]:
        gpu = self.gpus[index]
        return {
            "market_name": gpu.name or "N/A",
            "vendor_id": "0x1002",
            "vendor_name": "Advanced Micro Devices Inc. [AMD/ATI]",
            "device_id": hex(gpu.device_id),
            "asic_serial": f"0x{gpu.unique_id:016X}",
            "target_graphics_version": gpu.graphics,
        }

    def _enumeration_info(self, index: int) -> dict[str, Any]:
        node = self._node(index)
        first = min(self._node(i) for i in range(len(self.gpus)))
        return {
            "drm_render": 128 + index,
            "drm_card": index,
            "hsa_id": node,
            "hip_id": node - first,
            "hip_uuid": f"GPU-{self.gpus[index].unique_id:016x}",
        }

    def _energy_count(self, index: int) -> dict[str, int | float]:
        gpu, now = self.gpus[index], self._clock()
        if gpu.counter == "refused":
            raise AmdSmiLibraryException(NOT_SUPPORTED)
        joules = gpu.start_joules
        if gpu.counter == "counts":
            true = gpu.curve.joules(refreshed(now, gpu.refresh_s)) - self._zeros[index]
            joules += gpu.counter_rate * max(true, 0.0)
        count = int(joules * 1e6 / RESOLUTION_UJ) % 2**gpu.counter_bits
        if gpu.counter in {"absent", "silent"}:
            count = 2**gpu.counter_bits - 1 if gpu.counter == "absent" else 0
        return {self._counter_key: count, "counter_resolution": RESOLUTION_UJ, "timestamp": now}

    def _power_info(self, index: int) -> dict[str, int | str]:
        gpu = self.gpus[index]
        keys = ("socket_power", "current_socket_power", "average_socket_power")
        watts = 0 if gpu.counter == "silent" else round(gpu.curve.watts(self._clock()))
        return {key: watts if key == gpu.power else "N/A" for key in keys} | {"power_limit": 750}
