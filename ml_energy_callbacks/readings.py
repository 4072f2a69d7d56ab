"""Devices and their readings; plain frozen values."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

Regularity = Literal["unknown", "continuous", "regular", "irregular"]


Kind = Literal["gpu", "cpu", "dram", "tpu", "soc", "board"]
Method = Literal["energy_counter", "power_integration", "model"]
Provenance = Literal["measured", "estimated"]
LatencySource = Literal["assumed", "known"]


@dataclass(frozen=True, slots=True)
class Device:
    """A device whose energy can be reported, and the method.

    Attributes:
        id: Stable name, such as ``nvml:GPU-<uuid>``, ``rapl:package-0`` or ``cpu-model:0``.
        name: Name for people.
        kind: Kind of hardware.
        backend: The backend that reads it.
        method: ``energy_counter`` (the device counts joules), ``power_integration`` (it reports watts, which are integrated) or
            ``model`` (it has no sensor; joules are computed from its load).
        provenance: ``measured`` or ``estimated``.
        relative_uncertainty: Half-width of the 95 % interval of its energy, as a share of the energy (0.1 = ±10 %). Where it
            depends on the load, a source's device may change it: it is that of the energy so far.
        wrap_joules: Modulus of the counter in joules; None if it does not wrap.
        update_period_s: Refresh period in seconds if it is known in advance; None if it has to be learned.
        note: One sentence on how the figure is obtained if that is not obvious, else None.
        missing: A sentence on other hardware of this kind that is present but cannot be read, so that its energy is not
            included and the user is warned; else None.
        unread: A sentence on hardware of another kind, without any device of its own, that this backend could read but may
            not: another backend may model it, and the user is warned; else None.
        covers: Kinds whose energy is included in this device's (a superchip's counter includes its processor): other backends'
            devices of these kinds are not counted in addition.
        cuda: CUDA's number of it in this process; None if unknown.
        node: NUMA node that it is attached to, to which ``covers`` is then limited; None if unknown.
        shared: Whether others may use the device at the same time, so that its energy is not only this job's.
        whole_machine: Whether it measures the whole machine: it is reported separately and never added to the other devices.
        min_interval_s: Least time between two reads in s. A device that must not be read often may also be slow to answer;
            devices with a value above 0 are therefore read in a thread of their own.
        max_watts: The most that this very device draws on average over a second, in W, as its driver, its firmware or its data
            sheet states: its power limit, critical power or TDP. What is far above is not believed. None if unknown.
        latency_s: How far its readings may be behind the host's clock, in s, which widens the intervals of phases. The default
            is our assumption for devices of which it is unknown; 0 where readings are computed as they are read.
        latency_source: Whether that is ``assumed`` or ``known``. Marks and readings cannot show it: a counter that is late and
            a device that starts to work late show the same.
        power_window_s: A reading of its power is the mean over so many seconds up to the instant at which it was renewed. None
            if that is unknown: phases then cannot be separated by its power.
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
    unread: str | None = None
    covers: tuple[Kind, ...] = ()
    cuda: int | None = None
    node: int | None = None
    shared: bool = False
    whole_machine: bool = False
    min_interval_s: float = 0.0
    max_watts: float | None = None
    latency_s: float = 0.002
    latency_source: LatencySource = "assumed"
    power_window_s: float | None = None


@runtime_checkable
class Source(Protocol):
    """An open device, which the sampler reads."""

    @property
    def device(self) -> Device:
        """The device that is read."""

    def read(self) -> float:
        """Return the cumulative joules, or the watts if ``device.method`` is ``power_integration``.

        A counter's zero is arbitrary. It may wrap at ``device.wrap_joules`` and may be reset.

        Raises:
            ReadError: The device could not be read this time.
        """

    def close(self) -> None:
        """Release the handle; calling it twice is harmless, and a later read raises ReadError."""


@runtime_checkable
class PowerSource(Source, Protocol):
    """A source of joules that also reports its power, independently of its counter; the two are compared."""

    def watts(self) -> float:
        """Return the present power in W.

        Raises:
            ReadError: The power could not be read this time, or is never available.
        """


@runtime_checkable
class SharedSource(Source, Protocol):
    """A source that reports which processes use the device."""

    def process_share(self, pids: Collection[int]) -> float | None:
        """Return these processes' share of the device's use since the last call, between 0 and 1.

        Returns:
            None if the device does not report it, or has reported nothing since the last call.
        """


@runtime_checkable
class InclusiveSource(Source, Protocol):
    """A source whose figure includes what other devices may report (``device.covers``), and that can leave it out."""

    def exclude(self, kinds: Collection[Kind]) -> None:
        """Leave out the energy of these kinds from now on, where the device covers them; it then covers none of them."""


@runtime_checkable
class CpuTimeSource(Source, Protocol):
    """A source that reports the CPU time of all processes whose energy it reports."""

    def busy_seconds(self) -> float:
        """Return the CPU time in s, from an arbitrary zero.

        Raises:
            ReadError: It could not be read this time.
        """


class Backend(Protocol):
    """One kind of hardware."""

    @property
    def name(self) -> str:
        """The first part of its device ids."""

    def open(self) -> Sequence[Source]:
        """Find and open this machine's devices of the kind; never returns an empty sequence.

        Raises:
            BackendUnavailableError: There is no device, or none that can be read, with the reason and the fix.
        """


class Reading(NamedTuple):
    """One reading of a device, bracketed by the clock.

    Attributes:
        started_ns: Monotonic clock just before the read.
        ended_ns: Monotonic clock just after it. The value was true at some instant between the two.
        value: Cumulative joules or watts, according to the device's method; None if the read failed.
    """

    started_ns: int
    ended_ns: int
    value: float | None
