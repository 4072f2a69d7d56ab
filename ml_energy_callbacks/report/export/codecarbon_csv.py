"""The CSV file of codecarbon, for its dashboards: a row for each run; unknown values are empty cells."""

import csv
import io
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ml_energy_callbacks.carbon.places import country_of
from ml_energy_callbacks.codecarbon_data import countries_by_code
from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.readings import Kind
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.export.subject import Subject, names_of
from ml_energy_callbacks.safe_text import csv_cell

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


def codecarbon_csv(subject: Subject) -> str:
    """Return the runs as a CSV file of codecarbon, whose projects are models.

    As in codecarbon, energy, power and water include the PUE; in the record they do not.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in subject.runs:
        row = _row(run, subject.facts.model or run.run.model or run.run.framework)
        writer.writerow({name: csv_cell(cell) if isinstance(cell := row.get(name), str) else cell for name in _COLUMNS})
    return text.getvalue()


def _row(record: RunRecord, project: str) -> dict[str, Any]:
    """Return the cells of a run by their columns."""
    total, carbon = record.total, record.carbon
    location = carbon.location or ""
    provider, _, region = location.partition(":")
    on_cloud = provider in _CLOUDS and region != ""
    country = country_of(location)
    emissions = None if total.co2e_grams is None else total.co2e_grams / _KILO
    row: dict[str, Any] = {
        "timestamp": datetime.fromisoformat(record.run.ended_at or record.run.started_at).strftime("%Y-%m-%dT%H:%M:%S"),
        "project_name": project,
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
        row[f"{part}_model"] = names_of(devices) or None
    gpus = sum(device.count for device in record.devices if device.kind == "gpu")
    row["gpu_count"] = gpus or None  # codecarbon's cpu_count counts threads
    return row


def _joules(record: RunRecord, kind: Kind) -> float | None:
    known = [device.joules for device in record.devices if device.kind == kind and device.joules is not None]
    return sum(known) if known else None
