"""An SPDX 3.0.1 document of its AI profile, with the energy of training, fine-tuning and inference."""

import json
from typing import Any

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.report.export.facts import require
from ml_energy_callbacks.report.export.subject import DEVELOPMENT, Energy, Subject
from ml_energy_callbacks.report.export.texts import TOOL, method_of, run_lines, tool_version, with_doubt
from ml_energy_callbacks.safe_text import json_source

_VERSION = "3.0.1"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_CREATION = "_:creation"
_NO_LICENSE = "expandedlicensing_NoAssertionLicense"


def spdx(subject: Subject) -> str:
    """Return the document as JSON-LD.

    The form has no place for an interval: it is in the ``comment`` of the model, with the method and the runs.

    Raises:
        ConfigurationError: What the AI profile requires of a package is unknown: its name, version, supplier, time of release
            or location.
        RecordError: No energy is known.
    """
    consumption = _consumption(subject)
    if not consumption:
        msg = "The energy of the runs is unknown, but the energy consumption of SPDX requires it."
        raise RecordError(msg)
    facts = subject.facts
    known = require(
        "SPDX",
        model=subject.model,
        version=facts.version,
        supplier=facts.supplier,
        released=facts.released,
        download=facts.download,
    )
    base = f"urn:uuid:{subject.id}"
    model, tool, supplier, license_ = (f"{base}#{name}" for name in ("model", "tool", "supplier", "license"))
    package = {
        **_element("ai_AIPackage", model, known["model"]),
        "software_packageVersion": known["version"],
        "suppliedBy": supplier,
        "releaseTime": known["released"],
        "software_downloadLocation": known["download"],
        "software_primaryPurpose": "model",
        "ai_energyConsumption": {"type": "ai_EnergyConsumption", **consumption},
        "comment": _comment(subject),
    }
    licensed = facts.license is not None
    elements = [
        _element("SoftwareAgent", tool, f"{TOOL} {tool_version()}"),
        _element("Organization", supplier, known["supplier"]),
        package,
        *([_license(license_, facts.license)] if facts.license is not None else []),
        *(
            {
                **_element("Relationship", f"{base}#{kind}"),
                "from": model,
                "relationshipType": kind,
                "to": [license_ if licensed else _NO_LICENSE],
            }
            for kind in ("hasDeclaredLicense", "hasConcludedLicense")
        ),
    ]
    document = {
        **_element("SpdxDocument", f"{base}#document", f"Energy of {known['model']}"),
        "rootElement": [model],
        "element": [element["spdxId"] for element in elements],
        "profileConformance": ["core", "software", "simpleLicensing", "ai"],
    }
    creation = {
        "type": "CreationInfo",
        "@id": _CREATION,
        "specVersion": _VERSION,
        "created": subject.time.strftime(_TIME),
        "createdBy": [tool],
    }
    whole = {"@context": f"https://spdx.org/rdf/{_VERSION}/spdx-context.jsonld", "@graph": [creation, document, *elements]}
    return json_source(json.dumps(whole, indent=1, ensure_ascii=False)) + "\n"


def _element(kind: str, identity: str, name: str | None = None) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    return {"type": kind, "spdxId": identity, "creationInfo": _CREATION, **named}


def _license(identity: str, expression: str) -> dict[str, Any]:
    return {
        **_element("simplelicensing_LicenseExpression", identity),
        "simplelicensing_licenseExpression": expression,
    }


def _parts(subject: Subject) -> dict[str, Energy]:
    trained = "finetuning" if subject.facts.training_type == "fine-tuning" else "training"
    return {trained: subject.energy(*DEVELOPMENT), "inference": subject.energy("inference")}


def _consumption(subject: Subject) -> dict[str, Any]:
    """Return the known kinds of energy: validation and the like belong to training."""
    return {
        f"ai_{kind}EnergyConsumption": [
            {
                "type": "ai_EnergyConsumptionDescription",
                "ai_energyQuantity": _decimal(energy.kwh),
                "ai_energyUnit": "kilowattHour",
            }
        ]
        for kind, energy in _parts(subject).items()
        if energy.kwh is not None
    }


def _decimal(value: float) -> str:
    """Return a number with nine significant digits as an ``xsd:decimal``, which has no exponent."""
    text = f"{value:.{max(1, 9 - len(f'{value:.0f}'))}f}" if value >= 1 else f"{value:.18f}"
    return text.rstrip("0").rstrip(".") or "0"


def _comment(subject: Subject) -> str:
    parts = [f"{kind}: {with_doubt(energy, energy.kwh, 'kWh')}." for kind, energy in _parts(subject).items() if energy.kwh]
    method = method_of(subject, *DEVELOPMENT, "inference")
    return " ".join([*parts, method, "Runs:", "; ".join(run_lines(subject)) + "."])
