"""A report in Boavizta's format BoAmps, version 1.1.0: energy of a task, with its data and infrastructure."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ml_energy_callbacks.carbon.places import country_of
from ml_energy_callbacks.codecarbon_data import countries_by_code
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.export.facts import require
from ml_energy_callbacks.report.export.subject import Activity, Subject
from ml_energy_callbacks.report.export.texts import TOOL, method_of, run_lines, tool_version
from ml_energy_callbacks.safe_text import json_source

_VERSION = "1.1.0"
_SPECIFICATION = "https://github.com/Boavizta/BoAmps/tree/main/model"
_TIME = "%Y-%m-%d %H:%M:%S"
_BILLION = 1e9
_TYPES: Mapping[str, str] = {"dram": "ram"}
"""What BoAmps calls a kind of device that it calls otherwise."""

_TRACKED = (("cpuTrackingMode", "cpu"), ("gpuTrackingMode", "gpu"))
_CLOUDS = ("aws", "azure", "gcp")
_QUALITY = ((0.10, "high"), (0.25, "medium"), (0.50, "low"))


def boamps(subject: Subject) -> str:
    """Return the report as JSON: a measure for each run, which add up; what is optional and unknown is left out.

    The form has no place for an interval: it is in ``taskDescription``, with the method and the runs, and in steps in
    ``quality``. Predictions of a lifetime were not made, so that they are not in it.

    Raises:
        ConfigurationError: The family of the task, the kind of the data or that of the infrastructure is unknown, or a
            publisher is given without the report's confidentiality.
        RecordError: No energy or no device is known.
    """
    measures = [_measure(run, run.total.joules) for run in subject.runs if run.total.joules is not None]
    if not measures or not any(run.devices for run in subject.runs):
        msg = "The energy or the devices of the runs are unknown, but a BoAmps report requires both."
        raise RecordError(msg)
    cloud, facts = _cloud(subject.runs), subject.facts
    kind = facts.infrastructure or ("publicCloud" if cloud else None)
    known = require("BoAmps", task=facts.task, data_type=facts.data_type, infrastructure=kind)
    doubt = None if subject.total().lower_bound else subject.total().relative_uncertainty
    report = {
        "header": _header(subject),
        "task": _task(subject, known),
        "measures": measures,
        "software": _software(subject),
        "infrastructure": _infrastructure(subject, cloud, known["infrastructure"]),
        "environment": _environment(subject),
        "quality": next((name for most, name in _QUALITY if doubt is not None and doubt <= most), None),
    }
    return json_source(json.dumps(_known(report), indent=1, ensure_ascii=False)) + "\n"


def _header(subject: Subject) -> dict[str, Any]:
    facts = subject.facts
    publisher = None
    if facts.publisher is not None or facts.confidentiality is not None:
        level = require("A publisher's report", confidentiality=facts.confidentiality)["confidentiality"]
        publisher = {"name": facts.publisher, "confidentialityLevel": level}
    return {
        "formatVersion": _VERSION,
        "formatVersionSpecificationUri": _SPECIFICATION,
        "reportId": str(subject.id),
        "reportDatetime": subject.time.strftime(_TIME),
        "publisher": publisher,
    }


def _task(subject: Subject, known: Mapping[str, str]) -> dict[str, Any]:
    facts = subject.facts
    training = "finetuning" if facts.training_type == "fine-tuning" else "training"
    named: Sequence[tuple[Activity, str]] = (("training", training), ("validation", "evaluation"), ("inference", "inference"))
    ran = [name for activity, name in named if any(stage.batches for _, stage in subject.stages(activity))]
    stages = [name for name in ran if name != "evaluation" or ran == ["evaluation"]]
    requests = _requests(subject)
    return {
        "taskStage": "+".join(stages) or "other",
        "taskFamily": known["task"],
        "nbRequest": requests,
        "algorithms": [
            {
                "algorithmName": subject.model,
                "parametersNumber": None if facts.parameters is None else facts.parameters / _BILLION,
                **_framework(subject.runs),
            }
        ],
        "dataset": [{"dataUsage": "input", "dataType": known["data_type"], "dataQuantity": _dataset_size(subject) or requests}],
        "taskDescription": " ".join(
            [
                "The measures are those of the runs, which add up.",
                method_of(subject, "training", "validation", "inference", "other"),
                "Runs:",
                "; ".join(run_lines(subject)),
            ]
        ),
    }


def _requests(subject: Subject) -> int | None:
    """Return the number of predictions, or None if it is unknown or 0."""
    known = [stage.samples for _, stage in subject.stages("inference")]
    return None if None in known else sum(count for count in known if count is not None) or None


def _dataset_size(subject: Subject) -> int | None:
    """Return the samples of an epoch of training, in the run where they are most; None if they are unknown."""
    epochs = [epoch for run in subject.runs for epoch in run.epochs if epoch.stage == "train"]
    return max((round(epoch.samples / epoch.epochs) for epoch in epochs if epoch.samples and epoch.epochs), default=None)


def _framework(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Return the framework if all runs have the same."""
    texts = {run.run.framework for run in runs}
    name, _, version = next(iter(texts)).partition(" ")
    if len(texts) > 1 or name == "none":
        return {}
    return {"framework": name, "frameworkVersion": version or None}


def _measure(run: RunRecord, joules: float) -> dict[str, Any]:
    idle, seconds = [device.idle_watts for device in run.devices], _idle_seconds(run)
    watts = None if not idle or None in idle else sum(power for power in idle if power is not None)
    modes = {
        name: "+".join(dict.fromkeys(_mode(device.backend, device.method) for device in run.devices if device.kind == kind))
        for name, kind in _TRACKED
    }
    return {
        "measurementMethod": TOOL if run.imported is None else run.imported.tool,
        "version": run.run.versions.get(TOOL, tool_version()) if run.imported is None else run.imported.version,
        **{name: mode or None for name, mode in modes.items()},
        "powerCalibrationMeasurement": None if watts is None or seconds is None else watts * seconds / JOULES_PER_KWH,
        "durationCalibrationMeasurement": None if watts is None else seconds,
        "powerConsumption": joules / JOULES_PER_KWH,
        "measurementDuration": run.total.seconds,
        "measurementDateTime": datetime.fromisoformat(run.run.started_at).astimezone(UTC).strftime(_TIME),
    }


def _mode(backend: str, method: str) -> str:
    """Return how a device is tracked; what BoAmps calls ``constant`` is a model of this package's."""
    return "power model" if method == "model" else backend


def _idle_seconds(run: RunRecord) -> float | None:
    """Return how long the idle power was measured, in s, or None."""
    try:
        return float(run.run.options["idle_seconds"])
    except (KeyError, ValueError):
        return None


def _software(subject: Subject) -> dict[str, Any]:
    versions = {run.run.versions.get("python") for run in subject.runs}
    return {"language": "python", "version": next(iter(versions)) if len(versions) == 1 else None}


def _cloud(runs: Sequence[RunRecord]) -> str | None:
    """Return the cloud of all runs, or None."""
    clouds = {(run.carbon.location or "").partition(":")[0] for run in runs}
    return next(iter(clouds)) if len(clouds) == 1 and clouds <= set(_CLOUDS) else None


def _infrastructure(subject: Subject, cloud: str | None, kind: str) -> dict[str, Any]:
    counts: dict[tuple[str, str], int] = {}
    shared: set[tuple[str, str]] = set()
    for run in subject.runs:
        own = Counter[tuple[str, str]]()
        for device in run.devices:
            own[device.kind, device.name] += device.count
        counts |= {key: max(count, counts.get(key, 0)) for key, count in own.items()}
        shared |= {(device.kind, device.name) for device in run.devices if device.shared}
    return {
        "infraType": kind,
        "cloudProvider": cloud,
        "components": [
            {
                "componentName": name,
                "componentType": _TYPES.get(device, device),
                "nbComponent": count,
                "share": None if (device, name) in shared else 1,
            }
            for (device, name), count in counts.items()
        ],
    }


def _environment(subject: Subject) -> dict[str, Any] | None:
    """Return the place and its intensity, which require that all runs were in one known country."""
    places = {run.carbon.location for run in subject.runs}
    location = next(iter(places)) if len(places) == 1 else None
    country = country_of(location or "")
    if not country:
        return None
    intensities = {run.carbon.intensity_g_per_kwh for run in subject.runs}
    return {
        "country": countries_by_code()[country].name,
        "location": location if location != country else None,
        "powerSourceCarbonIntensity": next(iter(intensities)) if len(intensities) == 1 else None,
    }


def _known(part: Any) -> Any:  # noqa: ANN401 - JSON of any form
    """Return JSON without what is unknown."""
    if isinstance(part, dict):
        return {name: _known(value) for name, value in part.items() if value is not None}
    return [_known(value) for value in part] if isinstance(part, list) else part
