"""The metadata of a model card of the Hugging Face Hub."""

import json
from collections import Counter
from decimal import Decimal

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.report.export.subject import Subject
from ml_energy_callbacks.report.export.texts import ENDED, TOOL, hardware_of, imported_from, origin_of, tool_version
from ml_energy_callbacks.safe_text import json_source


def model_card(subject: Subject) -> str:
    """Return the metadata block `co2_eq_emissions` of a model card of the Hugging Face Hub, in YAML; emissions are in grams.

    Raises:
        RecordError: The emissions of the run are unknown.
        ConfigurationError: The runs are of several models.
    """
    runs, energy, _ = subject.runs, subject.total(), subject.model
    if energy.joules is None or energy.co2e_grams is None:
        whose = "the run" if len(runs) == 1 else "the runs"
        msg = f"The emissions of {whose} are unknown, but a model card requires them."
        raise RecordError(msg)
    places = [run.carbon.location for run in runs if run.carbon.location is not None and not run.carbon.assumed]
    lines = {
        "emissions": _yaml_float(energy.co2e_grams),
        "source": _yaml_text(_source(subject)),
        "training_type": None if subject.facts.training_type is None else _yaml_text(subject.facts.training_type),
        "geographical_location": _yaml_text("; ".join(dict.fromkeys(places))) if len(places) == len(runs) else None,
        "hardware_used": _yaml_text(hardware_of(runs)) if any(run.devices for run in runs) else None,
    }
    return "\n".join(["co2_eq_emissions:", *(f"  {name}: {text}" for name, text in lines.items() if text is not None)]) + "\n"


def _source(subject: Subject) -> str:
    """Return what the emissions rest on."""
    runs, energy = subject.runs, subject.total()
    least = "at least " if energy.lower_bound else ""
    how = "measured" if energy.provenance == "measured" else "estimated"
    interval = "" if energy.relative_uncertainty is None else f" (±{energy.relative_uncertainty:.0%})"
    supplied = sum((run.total.joules or 0.0) * run.carbon.pue for run in runs) / JOULES_PER_KWH
    grams = energy.co2e_grams or 0.0
    mean = grams / supplied if len(runs) > 1 and supplied else runs[0].carbon.intensity_g_per_kwh
    origin = "; ".join(dict.fromkeys(origin_of(run.carbon) for run in runs))
    others = dict.fromkeys(text for run in runs if (text := imported_from(run)) is not None)
    factors = [f"{run.carbon.pue:g}" for run in runs]
    pue = "" if set(factors) == {"1"} else f", PUE {' or '.join(dict.fromkeys(factors))}"
    return (
        f"{TOOL} {tool_version()}: {least}{energy.kwh:.4g} kWh {how}{interval}, {''.join(f'{text}, ' for text in others)}"
        f"{mean:.4g} g CO2e/kWh ({origin}){pue}{_ended(subject)}"
    )


def _ended(subject: Subject) -> str:
    runs = subject.runs
    if len(runs) == 1:
        return {"failed": "; the run failed", "running": "; the run is still running or was killed"}.get(runs[0].run.status, "")
    counts = Counter(ENDED[run.run.status] for run in runs)
    return f"; all {len(runs)} runs count ({', '.join(f'{count} {status}' for status, count in counts.items())})"


def _yaml_text(text: str) -> str:
    """Return a text in double quotes, in which YAML takes all that JSON does."""
    return json_source(json.dumps(text, ensure_ascii=False))


def _yaml_float(value: float) -> str:
    """Return a number with six significant digits in fixed point: YAML 1.1 reads ``2e-05`` as text and ``2`` as an integer."""
    text = f"{Decimal(f'{value:.6g}'):f}"
    return text if "." in text else f"{text}.0"
