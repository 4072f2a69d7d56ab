"""A machine-learning bill of materials (ML-BOM) of CycloneDX, with the energy of the model's activities."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.report.export.facts import require
from ml_energy_callbacks.report.export.subject import Activity, Subject, share_of_grams
from ml_energy_callbacks.report.export.texts import TOOL, method_of, origin_of, run_lines, tool_version
from ml_energy_callbacks.safe_text import json_source

_GRAMS_PER_TONNE = 1e6


def cyclonedx(subject: Subject, version: Literal["1.6", "1.7"]) -> str:
    """Return the bill of materials as JSON: ``modelCard.considerations.environmentalConsiderations`` has the energy.

    The form has no place for an interval, so that it is among an activity's ``properties``, with how the energy is known; their
    names begin with ``ml-energy:``.

    Raises:
        ConfigurationError: The name of the model is unknown, the runs are of several models, or the source of the electricity
            is given without its provider.
        RecordError: No energy is known.
    """
    facts = subject.facts
    model = {
        "type": "machine-learning-model",
        "bom-ref": f"model-{subject.id}",
        "name": require("CycloneDX", model=subject.model)["model"],
        **({"version": facts.version} if facts.version else {}),
        **({"supplier": {"name": facts.supplier}} if facts.supplier else {}),
        "modelCard": {"considerations": {"environmentalConsiderations": _considerations(subject)}},
    }
    bom = {
        "$schema": f"http://cyclonedx.org/schema/bom-{version}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": version,
        "serialNumber": f"urn:uuid:{subject.id}",
        "version": 1,
        "metadata": {
            "timestamp": subject.time.isoformat(timespec="seconds"),
            "tools": {"components": [{"type": "application", "name": TOOL, "version": tool_version()}]},
        },
        "components": [model],
    }
    return json_source(json.dumps(bom, indent=1, ensure_ascii=False)) + "\n"


def _considerations(subject: Subject) -> dict[str, Any]:
    activities: tuple[Activity, ...] = ("training", "validation", "inference", "other")
    consumptions = [found for activity in activities if (found := _consumption(subject, activity)) is not None]
    if not consumptions:
        msg = "The energy of the runs is unknown, but the energy consumptions of CycloneDX require it."
        raise RecordError(msg)
    return {
        "energyConsumptions": consumptions,
        "properties": [_property("run", line) for line in run_lines(subject)],
    }


def _consumption(subject: Subject, activity: Activity) -> dict[str, Any] | None:
    """Return the energy of an activity, or None if it is unknown."""
    energy, facts = subject.energy(activity), subject.facts
    if energy.kwh is None:
        return None
    cost = {"value": energy.kwh, "unit": "kWh"}
    if facts.energy_source is not None:
        require("An energy source in CycloneDX", energy_provider=facts.energy_provider)
    provider = {
        "organization": {"name": facts.energy_provider},
        "energySource": facts.energy_source or "unknown",
        "energyProvided": cost,
    }
    offset = _offset(subject, activity)
    return {
        "activity": "fine-tuning" if activity == "training" and facts.training_type == "fine-tuning" else activity,
        "energyProviders": [provider] if facts.energy_provider else [],
        "activityEnergyCost": cost,
        **({} if energy.co2e_grams is None else {"co2CostEquivalent": _tonnes(energy.co2e_grams)}),
        **({} if offset is None else {"co2CostOffset": _tonnes(offset)}),
        "properties": [_property(name, text) for name, text in _properties(subject, activity)],
    }


def _properties(subject: Subject, activity: Activity) -> Iterator[tuple[str, str]]:
    """Yield what the form has no place for."""
    energy = subject.energy(activity)
    yield "provenance", str(energy.provenance)
    if energy.interval is not None:
        low, high = (end / JOULES_PER_KWH for end in energy.interval)
        yield "relativeUncertainty", f"{energy.relative_uncertainty:.3g}"
        yield "kWhLow", f"{low:.6g}"
        yield "kWhHigh", f"{high:.6g}"
    yield "lowerBound", "true" if energy.lower_bound else "false"
    yield "method", method_of(subject, activity)
    if energy.co2e_grams is not None:
        for origin in dict.fromkeys(origin_of(run.carbon) for run in subject.runs_of(activity)):
            yield "carbonIntensity", origin


def _offset(subject: Subject, activity: Activity) -> float | None:
    """Return the offsets of the runs in g CO2e that fall to an activity, by its emissions; None if there are none."""
    shares = [share_of_grams(run, stage, run.carbon.offset_grams) for run, stage in subject.stages(activity)]
    known = [share for share in shares if share is not None]
    return sum(known) if known else None


def _tonnes(grams: float) -> dict[str, Any]:
    return {"value": grams / _GRAMS_PER_TONNE, "unit": "tCO2eq"}


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"ml-energy:{name}", "value": value}
