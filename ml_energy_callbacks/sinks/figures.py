"""The figures of a run record that are exported, with their names and labels; pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from ml_energy_callbacks.record.schema import BesideRecord, DeviceRecord, PhaseRecord, RunRecord, StageRecord

Labels = tuple[str | None, ...]
"""Values of a figure's labels, in their order; None if a value is unknown."""

_Values = Iterator[tuple[Labels, float | None]]

_DEVICE: Final = ("device", "kind", "name", "provenance")


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """An exported figure with its names.

    Attributes:
        name: Name in OpenTelemetry; ``hw.energy`` and ``hw.host.energy`` are those of its semantic conventions for hardware
            (https://opentelemetry.io/docs/specs/semconv/hardware/common/).
        prometheus: Name in Prometheus, to which a counter's ``_total`` is added.
        unit: The unit in UCUM notation.
        help: Description in one sentence.
        labels: Names of its labels.
        values: Returns its values in a record, each with its labels; unknown values are None.
        counter: Whether it is a counter, which never decreases.
    """

    name: str
    prometheus: str
    unit: str
    help: str
    labels: Sequence[str]
    values: Callable[[RunRecord], _Values]
    counter: bool = True


def read_figures(record: RunRecord) -> dict[Figure, list[tuple[Labels, float]]]:
    """Return the values of every figure, each with its labels; unknown values are absent."""
    return {figure: [(labels, value) for labels, value in figure.values(record) if value is not None] for figure in FIGURES}


def _device_labels(device: DeviceRecord) -> Labels:
    return device.id, device.kind, device.name, device.provenance


def _joules(record: RunRecord) -> _Values:
    devices = {device.id: _device_labels(device) for device in record.devices}
    for stage, figures in record.stages.items():
        for name, joules in figures.devices.items():
            yield (*devices[name], stage), joules


def _stage_joules(devices: Sequence[BesideRecord]) -> _Values:
    for device in devices:
        for stage, joules in device.stages.items():
            yield (*_device_labels(device), stage), joules


def _host_joules(record: RunRecord) -> _Values:
    return _stage_joules(record.whole_machine)


def _process_joules(record: RunRecord) -> _Values:
    return _stage_joules([] if record.process is None else record.process.devices)


def _of_phase(quantity: Callable[[PhaseRecord], float | None]) -> Callable[[RunRecord], _Values]:
    def values(record: RunRecord) -> _Values:
        for stage, figures in record.stages.items():
            for phase, split in figures.phases.items():
                yield (stage, phase), quantity(split)

    return values


def _of_part(quantity: Callable[[PhaseRecord], float | None]) -> Callable[[RunRecord], _Values]:
    def values(record: RunRecord) -> _Values:
        for stage, figures in record.stages.items():
            for phase in figures.phases.values():
                for name, part in phase.parts.items():
                    yield (stage, name), quantity(part)

    return values


def _of_stage(quantity: Callable[[StageRecord], float | None]) -> Callable[[RunRecord], _Values]:
    def values(record: RunRecord) -> _Values:
        for stage, figures in record.stages.items():
            yield (stage,), quantity(figures)

    return values


def _of_substage(quantity: Callable[[StageRecord], float | None]) -> Callable[[RunRecord], _Values]:
    def values(record: RunRecord) -> _Values:
        for stage, figures in record.stages.items():
            for name, part in figures.substages.items():
                yield (stage, name), quantity(part)

    return values


def _cost(record: RunRecord) -> _Values:
    for stage, figures in record.stages.items():
        yield (stage, record.total.currency), figures.cost


def _missing(record: RunRecord) -> _Values:
    for device in chain(record.devices, record.whole_machine):
        yield _device_labels(device), device.missing_s


def _uncertainty(record: RunRecord) -> _Values:
    for device in chain(record.devices, record.whole_machine):
        yield _device_labels(device), None if device.joules is None else device.relative_uncertainty


def _intensity(record: RunRecord) -> _Values:
    carbon = record.carbon
    known = record.total.co2e_grams is not None  # else the intensity may not be known yet
    labels = (carbon.location, carbon.source, carbon.basis, str(carbon.assumed).lower())
    yield labels, carbon.intensity_g_per_kwh if known else None


FIGURES: Final = (
    Figure("hw.energy", "ml_energy_joules", "J", "Energy of a device.", (*_DEVICE, "stage"), _joules),
    Figure(
        "hw.host.energy",
        "ml_energy_host_joules",
        "J",
        "Energy of the whole machine, from a separate meter; includes the energy of the devices.",
        (*_DEVICE, "stage"),
        _host_joules,
    ),
    Figure(
        "ml.energy.process",
        "ml_energy_process_joules",
        "J",
        "This job's share of a device's energy; part of it.",
        (*_DEVICE, "stage"),
        _process_joules,
    ),
    Figure(
        "ml.energy.phase",
        "ml_energy_phase_joules",
        "J",
        "Energy of the devices by phase; absent while phases cannot be separated.",
        ("stage", "phase"),
        _of_phase(lambda phase: phase.joules),
    ),
    Figure(
        "ml.energy.phase.low",
        "ml_energy_phase_low_joules",
        "J",
        "Energy of the devices by phase: lower end of the 95 % interval, also while phases cannot be separated.",
        ("stage", "phase"),
        _of_phase(lambda phase: phase.low_joules),
        counter=False,
    ),
    Figure(
        "ml.energy.phase.high",
        "ml_energy_phase_high_joules",
        "J",
        "Energy of the devices by phase: upper end of the 95 % interval, also while phases cannot be separated.",
        ("stage", "phase"),
        _of_phase(lambda phase: phase.high_joules),
        counter=False,
    ),
    Figure(
        "ml.energy.time",
        "ml_energy_time_seconds",
        "s",
        "Time spent.",
        ("stage", "phase"),
        _of_phase(lambda phase: phase.seconds),
    ),
    Figure(
        "ml.energy.part",
        "ml_energy_part_joules",
        "J",
        "Energy of the devices in a part of the batches; part of that of the phase compute. Absent while it is unknown.",
        ("stage", "part"),
        _of_part(lambda part: part.joules),
    ),
    Figure(
        "ml.energy.part.low",
        "ml_energy_part_low_joules",
        "J",
        "Energy of the devices in a part of the batches: lower end of the 95 % interval, also while it is unknown.",
        ("stage", "part"),
        _of_part(lambda part: part.low_joules),
        counter=False,
    ),
    Figure(
        "ml.energy.part.high",
        "ml_energy_part_high_joules",
        "J",
        "Energy of the devices in a part of the batches: upper end of the 95 % interval, also while it is unknown.",
        ("stage", "part"),
        _of_part(lambda part: part.high_joules),
        counter=False,
    ),
    Figure(
        "ml.energy.part.time",
        "ml_energy_part_seconds",
        "s",
        "Time spent in a part of the batches; part of that of the phase compute.",
        ("stage", "part"),
        _of_part(lambda part: part.seconds),
    ),
    Figure(
        "ml.energy.substage",
        "ml_energy_substage_joules",
        "J",
        "Energy of the devices in a sub-stage; part of that of its stage.",
        ("stage", "substage"),
        _of_substage(lambda part: part.joules),
    ),
    Figure(
        "ml.energy.substage.time",
        "ml_energy_substage_seconds",
        "s",
        "Time spent in a sub-stage; part of that of its stage.",
        ("stage", "substage"),
        _of_substage(lambda part: part.seconds),
    ),
    Figure(
        "ml.energy.batches",
        "ml_energy_batches",
        "{batch}",
        "Completed batches or requests.",
        ("stage",),
        _of_stage(lambda stage: stage.batches),
    ),
    Figure(
        "ml.energy.samples",
        "ml_energy_samples",
        "{sample}",
        "Samples in completed batches.",
        ("stage",),
        _of_stage(lambda stage: stage.samples),
    ),
    Figure(
        "ml.energy.tokens",
        "ml_energy_tokens",
        "{token}",
        "Tokens in completed batches; absent where they are not counted.",
        ("stage",),
        _of_stage(lambda stage: stage.tokens),
    ),
    Figure(
        "ml.energy.flops",
        "ml_energy_flops",
        "{FLOP}",
        "Floating-point operations of the samples; absent where they are not known.",
        ("stage",),
        _of_stage(lambda stage: None if stage.flops is None else stage.flops.total),
    ),
    Figure(
        "ml.energy.co2e",
        "ml_energy_co2e_grams",
        "g",
        "Emissions in g CO2e, including the data centre's overhead (PUE).",
        ("stage",),
        _of_stage(lambda stage: stage.co2e_grams),
    ),
    Figure(
        "ml.energy.cost",
        "ml_energy_cost",
        "{currency}",
        "Cost of the electricity, including the data centre's overhead (PUE).",
        ("stage", "currency"),
        _cost,
    ),
    Figure(
        "ml.energy.missing",
        "ml_energy_missing_seconds",
        "s",
        "Time during which a device could not be read.",
        _DEVICE,
        _missing,
    ),
    Figure(
        "ml.energy.relative_uncertainty",
        "ml_energy_relative_uncertainty",
        "1",
        "Half-width of the 95 % interval of a device's energy, as a share of it.",
        _DEVICE,
        _uncertainty,
        counter=False,
    ),
    Figure(
        "ml.energy.carbon_intensity",
        "ml_energy_carbon_intensity_grams_per_kwh",
        "g/kW.h",
        "Carbon intensity in g CO2e per kWh: energy-weighted mean of the run, without PUE.",
        ("location", "source", "basis", "assumed"),
        _intensity,
        counter=False,
    ),
)
