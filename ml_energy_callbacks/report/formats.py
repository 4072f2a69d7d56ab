"""The formats of other programs; unknown values are left out."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from importlib.metadata import version
from itertools import product
from typing import Any, Literal, get_args

import msgspec

from ml_energy_callbacks.carbon.places import country_of
from ml_energy_callbacks.codecarbon_data import countries_by_code
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.readings import Kind, Provenance
from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.record.schema import CarbonRecord, DeviceRecord, RunRecord
from ml_energy_callbacks.report.notes import rows_of
from ml_energy_callbacks.safe_text import csv_cell, json_source

_COLUMNS = (
    "timestamp", "project_name", "run_id", "experiment_id", "duration", "emissions", "emissions_rate", "cpu_power", "gpu_power",
    "ram_power", "cpu_energy", "gpu_energy", "ram_energy", "energy_consumed", "water_consumed", "country_name",
    "country_iso_code", "region", "cloud_provider", "cloud_region", "os", "python_version", "codecarbon_version", "cpu_count",
    "cpu_model", "gpu_count", "gpu_model", "longitude", "latitude", "ram_total_size", "tracking_mode",
    "cpu_utilization_percent", "gpu_utilization_percent", "ram_utilization_percent", "ram_used_gb", "on_cloud", "pue", "wue",
)  # fmt: skip
"""Columns of `EmissionsData` in codecarbon 3.3: kg, kWh, W, s; energy, power and water include the PUE."""

_PARTS: Mapping[str, Kind] = {"cpu": "cpu", "gpu": "gpu", "ram": "dram"}
_CLOUDS = ("aws", "azure", "gcp")
_KILO = 1000.0
_ASSUMED = "world average, no location set"

_Unit = Literal["sample", "token"]


def codecarbon_csv(record: RunRecord) -> str:
    """Return the run as a CSV file of codecarbon, for its dashboards; unknown values are empty cells.

    As in codecarbon, energy, power and water include the PUE; in the record they do not.
    """
    total, carbon = record.total, record.carbon
    location = carbon.location or ""
    provider, _, region = location.partition(":")
    on_cloud = provider in _CLOUDS and region != ""
    country = country_of(location)
    emissions = None if total.co2e_grams is None else total.co2e_grams / _KILO
    row: dict[str, Any] = {
        "timestamp": datetime.fromisoformat(record.run.ended_at or record.run.started_at).strftime("%Y-%m-%dT%H:%M:%S"),
        "project_name": record.run.model or record.run.framework,
        "run_id": record.run.id,
        "duration": total.seconds,
        "emissions": emissions,
        "emissions_rate": None if emissions is None or not total.seconds else emissions / total.seconds,
        "energy_consumed": None if total.kwh is None else total.kwh * carbon.pue,
        "country_name": countries_by_code()[country].name if country else None,
        "country_iso_code": country,
        "region": location if country and not on_cloud and location != country and len(location) > len("FR") else None,
        "cloud_provider": provider if on_cloud else None,
        "cloud_region": region if on_cloud else None,
        "tracking_mode": "machine",
        "on_cloud": "Y" if on_cloud else "N" if country else None,
        "pue": carbon.pue,
        "wue": carbon.wue,
        "water_consumed": None if carbon.water_litres is None else carbon.water_litres * carbon.pue,
    }
    for part, kind in _PARTS.items():
        joules = _joules(record, kind)
        row[f"{part}_energy"] = None if joules is None else joules * carbon.pue / JOULES_PER_KWH
        row[f"{part}_power"] = None if joules is None or not total.seconds else joules * carbon.pue / total.seconds
    for part in ("cpu", "gpu"):
        devices = [device for device in record.devices if device.kind == part]
        row[f"{part}_model"] = _names(devices) or None
    row["gpu_count"] = (
        sum(device.count for device in record.devices if device.kind == "gpu") or None
    )  # codecarbon's cpu_count counts threads
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerow({name: csv_cell(cell) if isinstance(cell := row.get(name), str) else cell for name in _COLUMNS})
    return text.getvalue()


def model_card(record: RunRecord) -> str:
    """Return the metadata block `co2_eq_emissions` of a model card of the Hugging Face Hub, in YAML; emissions are in grams.

    Raises:
        RecordError: The emissions of the run are unknown.
    """
    total, carbon = record.total, record.carbon
    if total.co2e_grams is None:
        msg = "The emissions of the run are unknown, but a model card requires them."
        raise RecordError(msg)
    least = "at least " if record.lower_bound else ""
    how = "measured" if total.provenance == "measured" else "estimated"
    interval = "" if total.relative_uncertainty is None else f" (±{total.relative_uncertainty:.0%})"
    ended = {"failed": "; the run failed", "running": "; the run is still running or was killed"}.get(record.run.status, "")
    pue = "" if carbon.pue == 1 else f", PUE {carbon.pue:g}"
    source = (
        f"ml-energy-callbacks {version('ml-energy-callbacks')}: {least}{total.kwh:.4g} kWh {how}{interval}, "
        f"{carbon.intensity_g_per_kwh:.4g} g CO2e/kWh ({_origin(carbon)}){pue}{ended}"
    )
    lines = {
        "emissions": _yaml_float(total.co2e_grams),
        "source": _yaml_text(source),
        "geographical_location": _yaml_text(carbon.location) if carbon.location and not carbon.assumed else None,
        "hardware_used": _yaml_text(_names(record.devices)) if record.devices else None,
    }
    return "\n".join(["co2_eq_emissions:", *(f"  {name}: {text}" for name, text in lines.items() if text is not None)]) + "\n"


def _origin(carbon: CarbonRecord) -> str:
    """Return the source of the intensity, with the share of the grams that uses another source."""
    partly = 0 < carbon.assumed_share < 1
    parts = [_ASSUMED if carbon.assumed and not partly else _source(carbon)]
    if partly:
        parts.append(f"{_percent(carbon.assumed_share)} of it with the {_ASSUMED}")
    if carbon.fallback_share > 0:
        parts.append(f"{_percent(carbon.fallback_share)} of it with a fallback intensity")
    return "; ".join(parts)


def _source(carbon: CarbonRecord) -> str:
    """Return who publishes the intensity, and a note if it is that of a different location."""
    return carbon.source if carbon.note is None else f"{carbon.source}; {carbon.note.rstrip('.')}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _yaml_text(text: str) -> str:
    """Return a text in double quotes, in which YAML takes all that JSON does."""
    return json_source(json.dumps(text, ensure_ascii=False))


def _yaml_float(value: float) -> str:
    """Return a number with six significant digits in fixed point: YAML 1.1 reads ``2e-05`` as text and ``2`` as an integer."""
    text = f"{Decimal(f'{value:.6g}'):f}"
    return text if "." in text else f"{text}.0"


class Statement(msgspec.Struct, kw_only=True):
    """Software Carbon Intensity (SCI) as in ISO/IEC 21031:2024: SCI = (E x I + M) per R.

    Attributes:
        standard: Name of the standard.
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


def sci_json(record: RunRecord) -> str:
    """Return a statement of the software carbon intensity of each stage and sub-stage per sample, and per token, as JSON.

    Raises:
        RecordError: No stage has known emissions and known samples or tokens.
    """
    statements: list[Statement] = []
    carbon = record.carbon
    boundary = " of ".join(filter(None, (_names(record.devices), ", ".join(record.run.hostnames))))
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
        statements.append(
            Statement(
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
                intensity_source=_source(carbon),
                intensity_assumed=carbon.assumed,
                intensity_fallback_share=carbon.fallback_share,
            )
        )
    if not statements:
        msg = "No stage of the run has both known samples, or tokens, and known emissions, but a score requires them."
        raise RecordError(msg)
    return dump_json(statements) + "\n"


def _joules(record: RunRecord, kind: Kind) -> float | None:
    known = [device.joules for device in record.devices if device.kind == kind and device.joules is not None]
    return sum(known) if known else None


def _names(devices: Sequence[DeviceRecord]) -> str:
    counts = Counter(device.name for device in devices)
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())
