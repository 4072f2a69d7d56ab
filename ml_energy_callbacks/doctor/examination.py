"""Measure for some seconds as a run does, and tell what was found."""

from collections.abc import Generator, Mapping, Sequence
from time import sleep
from typing import Literal

import msgspec
from msgspec.structs import asdict

from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.metrics import ratio
from ml_energy_callbacks.readings import Backend
from ml_energy_callbacks.record.schema import DeviceRecord

SECONDS = 3.0
"""Long enough for thirty refreshes of a GPU's counter."""


class Examined(DeviceRecord, kw_only=True):
    """A device that can be read; ``watts`` is its mean power, None where it could not be read all the time."""

    watts: float | None
    whole_machine: bool


class Unmeasured(msgspec.Struct, kw_only=True):
    """A kind of hardware, or a device, that is not measured.

    Attributes:
        name: The backend's name, or the device's id.
        reason: Why, in a sentence.
        fix: What can be done about it, or None.
        present: Whether it is here all the same.
    """

    name: str
    reason: str
    fix: str | None
    present: bool


class Diagnosis(msgspec.Struct, kw_only=True):
    """All that was found; ``notes`` are what the user should know besides."""

    devices: list[Examined]
    unmeasured: list[Unmeasured]
    notes: list[str]


def _meter(devices: Literal["auto"] | Sequence[str], backends: Sequence[Backend] | None) -> EnergyMeter:
    # Nothing here is told in grams: any intensity keeps the meter from asking for one.
    return EnergyMeter(devices=devices, carbon_intensity=0.0, verbose=False, backends=backends)


def examine(
    devices: Literal["auto"] | Sequence[str] = "auto",
    *,
    backends: Sequence[Backend] | None = None,
    seconds: float = SECONDS,
) -> Diagnosis:
    """Measure this machine for some seconds and return what was found.

    Args:
        devices: ``"auto"`` or ids and globs, as in :class:`EnergyMeter`.
        backends: Where to look; None for all that are known.
        seconds: How long.

    Raises:
        ConfigurationError: An id or a glob fits no device here.
    """
    with _meter(devices, backends) as meter:
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
    )


def live_watts(
    devices: Literal["auto"] | Sequence[str] = "auto", *, backends: Sequence[Backend] | None = None, every_s: float = 1.0
) -> Generator[Mapping[str, float | None], None, None]:
    """Yield each device's mean power over the last interval in W by its id, for ever; None where it was not read.

    Args:
        devices: ``"auto"`` or ids and globs, as in :class:`EnergyMeter`.
        backends: Where to look; None for all that are known.
        every_s: Length of an interval in s.

    Raises:
        ConfigurationError: An id or a glob fits no device here.
    """
    with _meter(devices, backends) as meter:
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
