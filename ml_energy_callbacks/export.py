"""A run record -> the formats of other programs; what is not known is left out there, too."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from importlib.metadata import version
from typing import Any

import msgspec

from ml_energy_callbacks.carbon.cloud_regions import AWS, AZURE
from ml_energy_callbacks.carbon.places import country_of
from ml_energy_callbacks.codecarbon_data import energy_mixes
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.metrics import JOULES_PER_KWH, STAGES
from ml_energy_callbacks.readings import Kind
from ml_energy_callbacks.records import DeviceRecord, RunRecord

_COLUMNS = (
    "timestamp", "project_name", "run_id", "experiment_id", "duration", "emissions", "emissions_rate", "cpu_power", "gpu_power",
    "ram_power", "cpu_energy", "gpu_energy", "ram_energy", "energy_consumed", "water_consumed", "country_name",
    "country_iso_code", "region", "cloud_provider", "cloud_region", "os", "python_version", "codecarbon_version", "cpu_count",
    "cpu_model", "gpu_count", "gpu_model", "longitude", "latitude", "ram_total_size", "tracking_mode",
    "cpu_utilization_percent", "gpu_utilization_percent", "ram_utilization_percent", "ram_used_gb", "on_cloud", "pue", "wue",
)  # fmt: skip
"""codecarbon 3.3, `EmissionsData`: kg, kWh, W, s."""

_PARTS: Mapping[str, Kind] = {"cpu": "cpu", "gpu": "gpu", "ram": "dram"}
_KILO = 1000.0


def codecarbon_csv(record: RunRecord) -> str:
    """Return the run as a CSV file of codecarbon's, which its dashboards read; an unknown figure is an empty cell."""
    total, carbon = record.total, record.carbon
    provider, _, region = (carbon.location or "").partition(":")
    country = _country(carbon.location)
    emissions = None if total.co2e_grams is None else total.co2e_grams / _KILO
    row: dict[str, Any] = {
        "timestamp": datetime.fromisoformat(record.run.ended_at or record.run.started_at).strftime("%Y-%m-%dT%H:%M:%S"),
        "project_name": record.run.framework,
        "run_id": record.run.id,
        "duration": total.seconds,
        "emissions": emissions,
        "emissions_rate": None if emissions is None or not total.seconds else emissions / total.seconds,
        "energy_consumed": total.kwh,
        "country_name": energy_mixes()[country]["country_name"] if country else None,
        "country_iso_code": country,
        "region": carbon.location if country and not region and carbon.location != country else None,
        "cloud_provider": provider if region else None,
        "cloud_region": region or None,
        "tracking_mode": "machine",
        "on_cloud": "Y" if region else "N",
        "pue": carbon.pue,
        "wue": carbon.wue,
        "water_consumed": carbon.water_litres,
    }
    for part, kind in _PARTS.items():
        joules = _joules(record, kind)
        row[f"{part}_energy"] = None if joules is None else joules / JOULES_PER_KWH
        row[f"{part}_power"] = None if joules is None or not total.seconds else joules / total.seconds
    for part in ("cpu", "gpu"):
        devices = [device for device in record.devices if device.kind == part]
        row[f"{part}_count"] = len(devices) or None
        row[f"{part}_model"] = _names(devices) or None
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerow({name: row.get(name) for name in _COLUMNS})
    return text.getvalue()


def model_card(record: RunRecord) -> str:
    """Return the metadata block `co2_eq_emissions` of a model card of the Hugging Face Hub, in YAML; emissions are in grams.

    Raises:
        RecordError: The run's emissions are not known.
    """
    total, carbon = record.total, record.carbon
    if total.co2e_grams is None:
        msg = "The run's emissions are not known, so that no model card can tell them."
        raise RecordError(msg)
    how = "measured" if total.provenance == "measured" else "estimated"
    doubt = "" if total.relative_uncertainty is None else f" (±{total.relative_uncertainty:.0%})"
    place = "world average, as nobody named a place" if carbon.assumed else carbon.source
    pue = "" if carbon.pue == 1 else f", PUE {carbon.pue:g}"
    source = (
        f"ml-energy-callbacks {version('ml-energy-callbacks')}: {total.kwh:.4g} kWh {how}{doubt}, "
        f"{carbon.intensity_g_per_kwh:.4g} g CO2e/kWh ({place}){pue}"
    )
    lines = {
        "emissions": json.dumps(round(total.co2e_grams, 6)),
        "source": json.dumps(source, ensure_ascii=False),
        "geographical_location": json.dumps(carbon.location, ensure_ascii=False)
        if carbon.location and not carbon.assumed
        else None,
        "hardware_used": json.dumps(_names(record.devices), ensure_ascii=False) if record.devices else None,
    }
    return "\n".join(["co2_eq_emissions:", *(f"  {name}: {text}" for name, text in lines.items() if text is not None)]) + "\n"


class Statement(msgspec.Struct, kw_only=True):
    """Software Carbon Intensity by ISO/IEC 21031:2024: SCI = (E x I + M) per R.

    Attributes:
        standard: Name of the standard.
        stage: Stage that it is about.
        functional_unit: R in words.
        units: R, so many of them.
        energy_kwh: E, the data centre's overhead (PUE) included.
        intensity_g_per_kwh: I, location-based.
        operational_g: E x I.
        embodied_g: M for the time of the stage, or None where nobody told the machine's; it is then left out.
        sci_g_per_unit: The score.
        sci_g_per_1000_units: The same for a thousand.
        boundary: What is inside.
        intensity_source: Who publishes I.
    """

    standard: str = "ISO/IEC 21031:2024"
    stage: str
    functional_unit: str = "sample"
    units: int
    energy_kwh: float
    intensity_g_per_kwh: float
    operational_g: float
    embodied_g: float | None
    sci_g_per_unit: float
    sci_g_per_1000_units: float
    boundary: str
    intensity_source: str


def sci_json(record: RunRecord) -> str:
    """Return statements of the software carbon intensity of each stage that had samples, as JSON.

    Raises:
        RecordError: No stage's samples and emissions are known.
    """
    statements = []
    for name in STAGES:
        stage = record.stages.get(name)
        if stage is None or not stage.samples or stage.joules is None or stage.co2e_grams is None:
            continue
        embodied = record.carbon.embodied_grams
        if embodied is not None:
            embodied = embodied * stage.seconds / record.total.seconds
        whole = stage.co2e_grams + (embodied or 0.0)
        statements.append(
            Statement(
                stage=name,
                units=stage.samples,
                energy_kwh=stage.joules / JOULES_PER_KWH * record.carbon.pue,
                intensity_g_per_kwh=stage.co2e_grams / (stage.joules / JOULES_PER_KWH * record.carbon.pue)
                if stage.joules
                else record.carbon.intensity_g_per_kwh,
                operational_g=stage.co2e_grams,
                embodied_g=embodied,
                sci_g_per_unit=whole / stage.samples,
                sci_g_per_1000_units=whole / stage.samples * 1000,
                boundary=f"{_names(record.devices)} of {', '.join(record.run.hostnames)}",
                intensity_source=record.carbon.source,
            )
        )
    if not statements:
        msg = "No stage of the run has known samples and emissions, so that there is no score."
        raise RecordError(msg)
    return msgspec.json.format(msgspec.json.encode(statements), indent=1).decode() + "\n"


class Format(StrEnum):
    """What a run can be written as."""

    CODECARBON_CSV = "codecarbon-csv"
    MODEL_CARD = "model-card"
    SCI_JSON = "sci-json"


_WRITERS: Mapping[Format, Callable[[RunRecord], str]] = {
    Format.CODECARBON_CSV: codecarbon_csv,
    Format.MODEL_CARD: model_card,
    Format.SCI_JSON: sci_json,
}


def export(record: RunRecord, form: Format) -> str:
    """Return a run in one of the formats.

    Raises:
        RecordError: The run does not know what the format is about.
    """
    return _WRITERS[form](record)


def _joules(record: RunRecord, kind: Kind) -> float | None:
    known = [device.joules for device in record.devices if device.kind == kind and device.joules is not None]
    return sum(known) if known else None


def _names(devices: Sequence[DeviceRecord]) -> str:
    counts = Counter(device.name for device in devices)
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())


def _country(location: str | None) -> str | None:
    """Return the ISO-3 code of a place's country, where it tells."""
    if location is None:
        return None
    provider, _, region = location.partition(":")
    location = {"aws": AWS, "azure": AZURE}.get(provider, {}).get(region, location)
    code = location if location in energy_mixes() else country_of(location)
    return code if code in energy_mixes() else None
