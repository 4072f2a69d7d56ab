"""SCI for AI of the Green Software Foundation, on ISO/IEC 21031:2024: a score of the consumer's and one of the provider's."""

from collections.abc import Iterator, Sequence

import msgspec

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.report.export.subject import DEVELOPMENT, Activity, Subject
from ml_energy_callbacks.report.export.texts import method_of, origin_of, run_lines

_PER_FLOP, _PER_PARAMETER = 1e15, 1e9
_LACKS = {
    True: "API, orchestration, monitoring and clients are not included.",
    False: "Inception, data collection and preparation, deployment and retirement are not included.",
}
"""What the specification's boundary has, of a consumer or of a provider, and the records have not."""

_RATIONALE = "Each unit whose number is known is reported, as section 8.2.2 of the specification encourages."


class Score(msgspec.Struct, kw_only=True, frozen=True):
    """A score for one functional unit.

    Attributes:
        functional_unit: Name of the unit R.
        units: R, their number; gross, that is without adjustment.
        values: ``gross`` or ``effective``, as section 8.2.2 tells them apart.
        sci: (E x I + M) / R.
        sci_low: Lower end of its 95 % interval by that of E, or None if that is unknown.
        sci_high: Upper end, or None.
        sci_unit: Unit of these.
    """

    functional_unit: str
    units: float
    values: str = "gross"
    sci: float
    sci_low: float | None
    sci_high: float | None
    sci_unit: str


class Side(msgspec.Struct, kw_only=True, frozen=True):
    """The score of a consumer, or of a provider.

    Attributes:
        lifecycle_stages: Stages of the specification that the runs cover.
        boundary: What is included, and what the specification's boundary has besides and the runs do not.
        energy_kwh: E, including the data centre's overhead (PUE).
        relative_uncertainty: Half-width of the 95 % interval of E as a share of it, or None.
        provenance: ``measured`` or ``estimated``.
        lower_bound: Whether energy is missing from E.
        operational_g: E x I in g CO2e.
        intensity: Who publishes I.
        embodied_g: M in g CO2e for the time of the stages, or None if it is unknown; it is then left out.
        scores: A score for each functional unit.
        rationale: Why these units.
    """

    lifecycle_stages: list[str]
    boundary: str
    energy_kwh: float
    relative_uncertainty: float | None
    provenance: Provenance | None
    lower_bound: bool
    operational_g: float
    intensity: list[str]
    embodied_g: float | None
    scores: list[Score]
    rationale: str


class Scores(msgspec.Struct, kw_only=True, frozen=True):
    """Both scores; one that cannot be calculated is ``N/A:`` with the reason."""

    standard: str = "SCI for AI (Green Software Foundation), based on ISO/IEC 21031:2024"
    model: str | None
    consumer: Side | str
    provider: Side | str
    runs: list[str]


def sci_ai(subject: Subject) -> str:
    """Return both scores as JSON.

    Raises:
        RecordError: Neither can be calculated.
        ConfigurationError: The runs are of several models.
    """
    facts = subject.facts
    used = [
        (
            facts.functional_unit or "inference",
            _count(subject, "inference", "samples"),
            1.0,
            facts.functional_unit or "inference",
        ),
        ("token", _count(subject, "inference", "tokens"), 1.0, "token"),
    ]
    made = [
        ("FLOP", subject.training_flops, _PER_FLOP, "10^15 FLOP"),
        ("training token", _count(subject, "training", "tokens"), 1.0, "training token"),
        ("parameter", facts.parameters, _PER_PARAMETER, "10^9 parameters"),
    ]
    found = Scores(
        model=subject.model,
        consumer=_side(subject, ("inference",), used),
        provider=_side(subject, DEVELOPMENT, made),
        runs=run_lines(subject),
    )
    if isinstance(found.consumer, str) and isinstance(found.provider, str):
        msg = (
            "Neither score can be calculated: the consumer's requires emissions and samples or tokens of the stage predict, "
            "the provider's those of training with tokens, FLOP (--set flops=...) or parameters (--set parameters=...)."
        )
        raise RecordError(msg)
    return dump_json(found) + "\n"


def _count(subject: Subject, activity: Activity, name: str) -> float | None:
    """Return the samples or tokens of an activity, or None if those of a run are unknown."""
    counts = [getattr(stage, name) for _, stage in subject.stages(activity) if stage.batches]
    return None if not counts or None in counts else float(sum(counts))


def _side(
    subject: Subject,
    activities: Sequence[Activity],
    units: Sequence[tuple[str, float | None, float, str]],
) -> Side | str:
    energy = subject.energy(*activities)
    counted = [(name, number, per, shown) for name, number, per, shown in units if number]
    if energy.joules is None or energy.co2e_grams is None:
        return "N/A: the emissions are not in the records"
    if not counted:
        return f"N/A: the number of no unit is known ({', '.join(name for name, *_ in units)})"
    embodied = _embodied(subject, activities)
    doubt = energy.relative_uncertainty
    scores = [
        Score(
            functional_unit=name,
            units=number,
            sci=(energy.co2e_grams + (embodied or 0.0)) / number * per,
            sci_low=None if doubt is None else (energy.co2e_grams * max(0.0, 1 - doubt) + (embodied or 0.0)) / number * per,
            sci_high=None if doubt is None else (energy.co2e_grams * (1 + doubt) + (embodied or 0.0)) / number * per,
            sci_unit=f"g CO2e per {shown}",
        )
        for name, number, per, shown in counted
    ]
    return Side(
        lifecycle_stages=["Operation and Monitoring" if "inference" in activities else "Design and Development"],
        boundary=" ".join(_boundary(subject, activities, embodied)),
        energy_kwh=_supplied(subject, activities),
        relative_uncertainty=doubt,
        provenance=energy.provenance,
        lower_bound=energy.lower_bound,
        operational_g=energy.co2e_grams,
        intensity=list(dict.fromkeys(origin_of(run.carbon) for run in subject.runs_of(*activities))),
        embodied_g=embodied,
        scores=scores,
        rationale=subject.facts.rationale or _RATIONALE,
    )


def _boundary(subject: Subject, activities: Sequence[Activity], embodied: float | None) -> Iterator[str]:
    yield method_of(subject, *activities, supplied=True)
    yield _LACKS["inference" in activities]
    if embodied is None:
        yield "Embodied emissions are unknown and not included."


def _supplied(subject: Subject, activities: Sequence[Activity]) -> float:
    """Return the energy in kWh, including the data centre's overhead."""
    return sum((stage.joules or 0.0) * run.carbon.pue for run, stage in subject.stages(*activities)) / JOULES_PER_KWH


def _embodied(subject: Subject, activities: Sequence[Activity]) -> float | None:
    """Return the embodied emissions for the time of the stages in g CO2e, or None if those of a run are unknown."""
    shares = [
        None if run.carbon.embodied_grams is None else run.carbon.embodied_grams * stage.seconds / (run.total.seconds or 1.0)
        for run, stage in subject.stages(*activities)
    ]
    return None if None in shares else sum(share for share in shares if share is not None)
