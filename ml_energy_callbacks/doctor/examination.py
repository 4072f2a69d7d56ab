"""Measure for some seconds as a run does, and return the results."""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from time import sleep
from typing import Literal

import msgspec
from msgspec.structs import asdict

from ml_energy_callbacks.backends.drivers.cpuinfo import parse_cpuinfo
from ml_energy_callbacks.backends.drivers.sysfs import read_text
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.metrics import ratio
from ml_energy_callbacks.readings import Backend, Provenance
from ml_energy_callbacks.record.schema import DeviceRecord

SECONDS = 3.0
"""Time for thirty refreshes of a GPU's counter."""


class Examined(DeviceRecord, kw_only=True):
    """A device that can be read; ``watts`` is its mean power, None if some reads failed."""

    watts: float | None
    whole_machine: bool


class Unmeasured(msgspec.Struct, kw_only=True):
    """A kind of hardware, or a device, that is not measured.

    Attributes:
        name: The backend's name, or the device's id.
        reason: The reason, in a sentence.
        fix: What to do about it, or None.
        present: Whether the hardware is present.
    """

    name: str
    reason: str
    fix: str | None
    present: bool


class Diagnosis(msgspec.Struct, kw_only=True):
    """The result of an examination.

    Attributes:
        devices: Devices that can be read.
        unmeasured: Hardware that is not measured.
        notes: Further sentences for the user.
        provenance: Whether a total is ``measured`` or ``estimated`` here; None if nothing can be read.
        relative_uncertainty: Half-width of the 95 % interval of a total as a share of it, at the present load; or None.
        virtual: Whether the machine is a virtual one.
    """

    devices: list[Examined]
    unmeasured: list[Unmeasured]
    notes: list[str]
    provenance: Provenance | None = None
    relative_uncertainty: float | None = None
    virtual: bool = False


def _make_meter(devices: Literal["auto"] | Sequence[str], backends: Sequence[Backend] | None) -> EnergyMeter:
    # No grams are reported: with any intensity set, the meter does not warn that none is.
    return EnergyMeter(devices=devices, carbon_intensity=0.0, verbose=False, backends=backends)


def examine(
    devices: Literal["auto"] | Sequence[str] = "auto",
    *,
    backends: Sequence[Backend] | None = None,
    seconds: float = SECONDS,
) -> Diagnosis:
    """Measure this machine for some seconds and return the diagnosis.

    Args:
        devices: ``"auto"`` or ids and globs, as in :class:`EnergyMeter`.
        backends: The backends to search; None for all known ones.
        seconds: Length of the measurement in s.

    Raises:
        ConfigurationError: An id or a glob matches no device.
    """
    with _make_meter(devices, backends) as meter:
        sleep(seconds)
    record, discovery = meter.record, meter.discovery
    found: list[tuple[DeviceRecord, bool]] = [(device, False) for device in record.devices]
    found += [(device, True) for device in record.whole_machine]
    unmeasured = [
        *(
            Unmeasured(name=name, reason=reason, fix=None, present=True)
            for name, reason in (*discovery.refused.items(), *discovery.left_out.items())
        ),
        *(
            Unmeasured(name=name, reason=error.reason, fix=error.fix, present=error.present)
            for name, error in discovery.unavailable.items()
        ),
    ]
    fields = DeviceRecord.__struct_fields__
    return Diagnosis(
        devices=[
            Examined(
                **{name: value for name, value in asdict(device).items() if name in fields},
                watts=None if device.missing_s else ratio(device.joules, record.total.seconds),
                whole_machine=whole,
            )
            for device, whole in found
        ],
        unmeasured=unmeasured,
        notes=[warning for warning in record.warnings if not any(entry.reason in warning for entry in unmeasured)],
        provenance=record.total.provenance,
        relative_uncertainty=record.total.relative_uncertainty,
        virtual=parse_cpuinfo(read_text(Path("/proc/cpuinfo")) or "").virtual,
    )


def live_watts(
    devices: Literal["auto"] | Sequence[str] = "auto", *, backends: Sequence[Backend] | None = None, every_s: float = 1.0
) -> Generator[Mapping[str, float | None], None, None]:
    """Yield each device's mean power over the last interval in W by its id, indefinitely; None if it was not read.

    Args:
        devices: ``"auto"`` or ids and globs, as in :class:`EnergyMeter`.
        backends: The backends to search; None for all known ones.
        every_s: Length of an interval in s.

    Raises:
        ConfigurationError: An id or a glob matches no device.
    """
    with _make_meter(devices, backends) as meter:
        ids = [source.device.id for source in meter.discovery.sources]
        before = meter.point()
        while True:
            sleep(every_s)
            now = meter.point()
            earlier, later = before.devices | before.beside, now.devices | now.beside
            seconds = (now.time_ns - before.time_ns) / NS_PER_S
            known = earlier.keys() - meter.silent
            yield {name: (later[name] - earlier[name]) / seconds if name in known else None for name in ids}
            before = now
