"""What a device is and what one look at it yields; plain frozen values."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

Regularity = Literal["unknown", "continuous", "regular", "irregular"]


Kind = Literal["gpu", "cpu", "dram", "tpu", "soc", "board"]
Method = Literal["energy_counter", "power_integration", "model"]
Provenance = Literal["measured", "estimated"]


@dataclass(frozen=True, slots=True)
class Device:
    """A device whose energy can be told, and how.

    Attributes:
        id: Stable name, such as ``nvml:GPU-<uuid>``, ``rapl:package-0`` or ``cpu-model:0``.
        name: The name that a person knows it by.
        kind: What sort of hardware it is.
        backend: The backend that reads it.
        method: ``energy_counter`` (the device counts joules), ``power_integration`` (it tells watts, we integrate) or
            ``model`` (nothing measures it; joules are computed from its load).
        provenance: ``measured`` or ``estimated``.
        relative_uncertainty: Half-width of the 95 % interval of its energy, as a share of the energy (0.1 = ±10 %).
        wrap_joules: Modulus of the counter in joules; None where it does not wrap.
        update_period_s: Period of refresh in seconds where it is known beforehand; None where it must be learned.
        note: One sentence on how the figure comes about, where that is not plain; else None.
        missing: A sentence on hardware of this sort that is here too and cannot be read, so that its energy is missing and the
            user has to be told; else None.
        covers: Kinds whose energy is inside this device's (a superchip's counter holds its processor too): other backends'
            devices of these kinds are not counted beside it.
        cuda: Number by which CUDA knows it in this process, where that is known for certain.
        node: NUMA node that it is attached to, where that is known: what ``covers`` names is then inside it on this node alone.
        shared: Whether others may use the device at the same time, so that its energy is not this job's alone.
        whole_machine: Whether it meters the machine as a whole: it is reported beside the parts and never added to them.
        min_interval_s: Least time between two reads in s. What may not be read often may also be slow to answer, so that
            devices above 0 are read in a thread of their own.
    """

    id: str
    name: str
    kind: Kind
    backend: str
    method: Method
    provenance: Provenance
    relative_uncertainty: float
    wrap_joules: float | None = None
    update_period_s: float | None = None
    note: str | None = None
    missing: str | None = None
    covers: tuple[Kind, ...] = ()
    cuda: int | None = None
    node: int | None = None
    shared: bool = False
    whole_machine: bool = False
    min_interval_s: float = 0.0


@runtime_checkable
class Source(Protocol):
    """An open device: the one thing that the sampler needs."""

    @property
    def device(self) -> Device:
        """What is read here."""

    def read(self) -> float:
        """Return the cumulative joules, or the watts where ``device.method`` is ``power_integration``.

        The zero of a counter is arbitrary. A counter may wrap at ``device.wrap_joules`` and may be reset.

        Raises:
            ReadError: The device could not be read this time.
        """

    def close(self) -> None:
        """Give the handle back; calling it twice is harmless, and a read after it raises ReadError."""


@runtime_checkable
class PowerSource(Source, Protocol):
    """A source of joules that tells its power, too, by another way than its counter: the two are held against each other."""

    def watts(self) -> float:
        """Return the power in W now.

        Raises:
            ReadError: It could not be read this time, or never can.
        """


@runtime_checkable
class SharedSource(Source, Protocol):
    """A source that knows who uses the device."""

    def process_share(self, pids: Collection[int]) -> float | None:
        """Return the share of the device's use since the last call that these processes had, between 0 and 1.

        Returns:
            None where the device does not tell, or has not told anything since.
        """


class Backend(Protocol):
    """One kind of hardware."""

    @property
    def name(self) -> str:
        """The name that device ids begin with."""

    def open(self) -> Sequence[Source]:
        """Find and open this machine's devices of the kind; never returns an empty sequence.

        Raises:
            BackendUnavailableError: There is none, or none that can be read, with the reason and the fix.
        """


class Reading(NamedTuple):
    """One reading of a device, bracketed by the clock.

    Attributes:
        started_ns: Monotonic clock just before the read.
        ended_ns: Monotonic clock just after it. The value was true at some instant between the two.
        value: Cumulative joules or watts, as the device's method says; None where the read failed.
    """

    started_ns: int
    ended_ns: int
    value: float | None
