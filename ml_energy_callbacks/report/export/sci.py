"""Statements of the software carbon intensity (SCI), of each stage of each run."""

from collections.abc import Iterator
from itertools import product
from typing import Literal, get_args

import msgspec

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.export.subject import Subject, names_of
from ml_energy_callbacks.report.export.texts import source_of
from ml_energy_callbacks.report.notes import rows_of

_Unit = Literal["sample", "token"]


class Statement(msgspec.Struct, kw_only=True):
    """Software Carbon Intensity (SCI) as in ISO/IEC 21031:2024: SCI = (E x I + M) per R.

    Attributes:
        standard: Name of the standard.
        run: Id of the run.
        stage: The stage, or a sub-stage such as ``predict/prefill``, which is part of its stage.
        functional_unit: Name of the unit R.
        units: R, the number of units.
        energy_kwh: E, including the data centre's overhead (PUE).
        provenance: ``measured``, or ``estimated`` if the energy of any device is.
        relative_uncertainty: Half-width of the 95 % interval of E as a share of it, from the devices' own; None if E is 0.
        intensity_g_per_kwh: I, location-based.
        operational_g: E x I.
        embodied_g: M for the time of the stage, or None if the embodied emissions of the machine are unknown; M is then left
            out. Time outside all stages (``other``) is distributed over the stages in proportion to their time, so that the
            shares of all stages, without their sub-stages, add up to that of the run.
        sci_g_per_unit: The score.
        sci_g_per_1000_units: The same for 1000 units.
        boundary: The devices and hosts that are included, and a note if energy is missing or embodied emissions are not.
        intensity_source: Who publishes I, and a note if it is that of a different location.
        intensity_assumed: Whether I is the world average for the run or a part of it, because no location was set.
        intensity_fallback_share: Share of the run's operational emissions that uses a fallback intensity, because the
            configured source had none.
    """

    standard: str = "ISO/IEC 21031:2024"
    run: str
    stage: str
    functional_unit: _Unit
    units: int
    energy_kwh: float
    provenance: Provenance | None
    relative_uncertainty: float | None
    intensity_g_per_kwh: float
    operational_g: float
    embodied_g: float | None
    sci_g_per_unit: float
    sci_g_per_1000_units: float
    boundary: str
    intensity_source: str
    intensity_assumed: bool
    intensity_fallback_share: float


def sci_json(subject: Subject) -> str:
    """Return a statement of the software carbon intensity of each stage and sub-stage per sample, and per token, as JSON.

    Raises:
        RecordError: No stage has known emissions and known samples or tokens.
    """
    statements = [statement for run in subject.runs for statement in _statements(run)]
    if not statements:
        msg = "No stage of the run has both known samples, or tokens, and known emissions, but a score requires them."
        raise RecordError(msg)
    return dump_json(statements) + "\n"


def _statements(record: RunRecord) -> Iterator[Statement]:
    carbon = record.carbon
    boundary = " of ".join(filter(None, (names_of(record.devices), ", ".join(record.run.hostnames))))
    if record.lower_bound:
        boundary += "; the energy of a device or a process of the run is missing"
    if carbon.embodied_grams is None:
        boundary += "; embodied emissions are unknown and not included"
    in_stages = sum(stage.seconds for name, stage in record.stages.items() if name != "other" or stage.samples or stage.tokens)
    for (name, stage), unit in product(rows_of(record), get_args(_Unit)):
        units = stage.samples if unit == "sample" else stage.tokens
        if not units or stage.joules is None or stage.co2e_grams is None:
            continue
        embodied = None if carbon.embodied_grams is None else carbon.embodied_grams * stage.seconds / in_stages
        whole = stage.co2e_grams + (embodied or 0.0)
        yield Statement(
            run=record.run.id,
            stage=name,
            functional_unit=unit,
            units=units,
            energy_kwh=stage.joules / JOULES_PER_KWH * carbon.pue,
            provenance=stage.provenance,
            relative_uncertainty=stage.relative_uncertainty,
            intensity_g_per_kwh=stage.co2e_grams / (stage.joules / JOULES_PER_KWH * carbon.pue)
            if stage.joules and carbon.intervals
            else carbon.intensity_g_per_kwh,
            operational_g=stage.co2e_grams,
            embodied_g=embodied,
            sci_g_per_unit=whole / units,
            sci_g_per_1000_units=whole / units * 1000,
            boundary=boundary,
            intensity_source=source_of(carbon),
            intensity_assumed=carbon.assumed,
            intensity_fallback_share=carbon.fallback_share,
        )
