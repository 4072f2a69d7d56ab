"""What is exported: all runs of a model, and the energy of each of its activities; pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID, uuid5

from msgspec.structs import replace

from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.metrics import JOULES_PER_KWH, known_sum
from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.record.schema import DeviceRecord, RunRecord, StageRecord, TotalRecord
from ml_energy_callbacks.report.export.facts import Facts
from ml_energy_callbacks.report.lifecycle import Lifecycle, Part, has_other_records, longest_of_each_run, provenance_of

Activity = Literal["training", "validation", "inference", "other"]

ACTIVITIES: Mapping[str, Activity] = {
    "train": "training",
    "sanity_check": "validation",
    "validate": "validation",
    "test": "validation",
    "predict": "inference",
    "other": "other",
}
"""The activity that each stage of a run belongs to."""

DEVELOPMENT: Sequence[Activity] = ("training", "validation", "other")
"""The activities that a model is made by; what is left is its use."""

_METHODS: Mapping[str, str] = {
    "given": "stated for one sample, times the number of samples",
    "torch operators": "counted from torch's operators in one batch, per sample, times the number of samples",
    "XLA cost analysis": "XLA's cost analysis of one batch, per sample, times the number of samples",
}
"""What the methods of counting operations in a record are."""

_NAMESPACE = UUID("0a9d9f0e-0b52-4d5c-9d0d-5f2f5c0c8f0d")
"""Of the identifiers that are derived from those of runs: one export of the same runs is like another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy of activities, over all runs.

    Attributes:
        joules: Energy in J, without the data centre's overhead, or None if none of it is known.
        relative_uncertainty: Half-width of the 95 % interval of ``joules`` as a share of it, or None if that of a part is
            unknown: the errors of the runs are assumed to add up, as for one kind of hardware.
        provenance: ``measured`` if all of it was, else ``estimated``; None if nothing is known.
        co2e_grams: Emissions in g CO2e, with the data centre's overhead, or None if those of a part are unknown.
        seconds: Time in s, of all runs one after the other; 0.0 for predictions that were not made.
        lower_bound: Whether energy is missing from ``joules``.
    """

    joules: float | None
    relative_uncertainty: float | None
    provenance: Provenance | None
    co2e_grams: float | None
    seconds: float
    lower_bound: bool

    @property
    def kwh(self) -> float | None:
        """The same in kWh."""
        return None if self.joules is None else self.joules / JOULES_PER_KWH

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the 95 % interval of ``joules`` in J, or None."""
        if self.joules is None or self.relative_uncertainty is None:
            return None
        half = self.joules * self.relative_uncertainty
        return max(0.0, self.joules - half), self.joules + half


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The predictions over the lifetime of a model.

    Attributes:
        prediction: Record of the run that has the energy of a prediction.
        lifecycle: Training and inference over the lifetime.
    """

    prediction: RunRecord
    lifecycle: Lifecycle


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """All runs of a model.

    Attributes:
        runs: Their records by their start, each run once.
        facts: What the records do not know.
        lifetime: The predictions over the lifetime of the model, or None.
        partial: Ids of the runs of which another record may hold energy that the one in ``runs`` lacks.
    """

    runs: Sequence[RunRecord]
    facts: Facts
    lifetime: Lifetime | None
    partial: frozenset[str]

    @property
    def model(self) -> str | None:
        """Name of the model, or None if no record has one.

        Raises:
            ConfigurationError: The runs are of several models.
        """
        if self.facts.model is not None:
            return self.facts.model
        names = sorted({run.run.model for run in self.runs if run.run.model is not None})
        if len(names) > 1:
            msg = f"The runs are of several models ({', '.join(names)}): choose the runs of one, or name it: --set model=..."
            raise ConfigurationError(msg)
        return names[0] if names else None

    @property
    def id(self) -> UUID:
        """An identifier that depends on the runs alone, so that their export can be repeated."""
        return uuid5(_NAMESPACE, " ".join(run.run.id for run in self.runs))

    @property
    def time(self) -> datetime:
        """When the last run ended, or began if it has not ended, in UTC."""
        return max(_instant(run.run.ended_at or run.run.started_at) for run in self.runs)

    @property
    def training_flops(self) -> float | None:
        """Floating-point operations of all training, as stated or else as recorded, or None if those of a part are unknown."""
        if self.facts.flops is not None:
            return self.facts.flops
        worked = [stage.flops for _, stage in self.stages("training") if stage.batches]
        return known_sum([None if flops is None else flops.total for flops in worked]) or None

    @property
    def flops_method(self) -> str | None:
        """How the operations of all training are known, or None if that is not stated."""
        if self.facts.flops is not None or self.facts.flops_method is not None:
            return self.facts.flops_method
        known = dict.fromkeys(stage.flops.method for _, stage in self.stages("training") if stage.flops is not None)
        return "; ".join(_METHODS.get(method, method) for method in known) or None

    def stages(self, *activities: Activity) -> Iterator[tuple[RunRecord, StageRecord]]:
        """Yield the stages of these activities in all runs, each with its run."""
        for run in self.runs:
            for name, stage in run.stages.items():
                if ACTIVITIES.get(name, "other") in activities:
                    yield run, stage

    def runs_of(self, *activities: Activity) -> list[RunRecord]:
        """Return the runs that have stages of these activities; of inference, with that of a lifetime's prediction."""
        runs = {run.run.id: run for run, _ in self.stages(*activities)}
        if self.lifetime is not None and "inference" in activities:
            runs.setdefault(self.lifetime.prediction.run.id, self.lifetime.prediction)
        return list(runs.values())

    def energy(self, *activities: Activity) -> Energy:
        """Return the energy of these activities in all runs; of inference, with that of the model's lifetime."""
        parts: list[StageRecord | Part] = [stage for _, stage in self.stages(*activities)]
        seconds = sum(stage.seconds for _, stage in self.stages(*activities))
        if self.lifetime is not None and "inference" in activities:
            # Nobody has measured what is to come.
            parts.append(replace(self.lifetime.lifecycle.inference, provenance="estimated"))
        return _add(parts, seconds, lower_bound=any(map(self.lacks_energy, self.runs_of(*activities))))

    def total(self) -> Energy:
        """Return the energy of all runs."""
        seconds = sum(run.total.seconds for run in self.runs)
        return _add([run.total for run in self.runs], seconds, lower_bound=any(map(self.lacks_energy, self.runs)))

    def lacks_energy(self, run: RunRecord) -> bool:
        """Return whether energy of a run is missing from its record, or may be in another record of it."""
        return run.lower_bound or run.total.joules is None or run.run.id in self.partial


def _add(parts: Sequence[StageRecord | TotalRecord | Part], seconds: float, *, lower_bound: bool) -> Energy:
    known = [part for part in parts if part.joules is not None]
    joules = sum(part.joules or 0.0 for part in known) if known else None
    half = _sum_if_known(
        [
            None if part.relative_uncertainty is None else part.relative_uncertainty * (part.joules or 0.0)
            for part in known
            if part.joules
        ]
    )
    return Energy(
        joules=joules,
        relative_uncertainty=half / joules if half is not None and joules else None,
        provenance=provenance_of([part.provenance for part in known]),
        co2e_grams=_sum_if_known([part.co2e_grams for part in known]) if known else None,
        seconds=seconds,
        lower_bound=lower_bound or len(known) < len(parts),
    )


def subject_of(
    records: RunRecord | Sequence[RunRecord], facts: Facts | None = None, lifetime: Lifetime | None = None
) -> Subject:
    """Return what is exported, from the records of a model's runs.

    Raises:
        RecordError: There is no record, or one is of one process of a job.
    """
    given = [records] if isinstance(records, RunRecord) else list(records)
    if not given:
        msg = "There is no run to export: give the record of at least one."
        raise RecordError(msg)
    for record in given:
        if record.part is not None and record.run.world_size > 1:
            msg = f"A record of run {record.run.id[:8]} is of one process of a job: `ml-energy merge` builds the job's."
            raise RecordError(msg)
    runs = longest_of_each_run(given)
    ids = {run.run.id for run in runs}
    counted = [run for run in runs if run.run.within not in ids]
    return Subject(
        runs=sorted(counted, key=lambda run: (_instant(run.run.started_at), run.run.id)),
        facts=facts or Facts(),
        lifetime=lifetime,
        partial=frozenset(run.run.id for run in counted if has_other_records(run, given)),
    )


def share_of_grams(run: RunRecord, stage: StageRecord, of_run: float | None) -> float | None:
    """Return a stage's share of a figure of the run by its emissions; None if either is unknown."""
    if of_run is None or stage.co2e_grams is None or not run.total.co2e_grams:
        return None
    return of_run * stage.co2e_grams / run.total.co2e_grams


def names_of(devices: Sequence[DeviceRecord]) -> str:
    """Return the names of devices, such as ``8 x NVIDIA H100, AMD EPYC``."""
    counts = Counter(device.name for device in devices)
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _sum_if_known(values: Sequence[float | None]) -> float | None:
    """Return the sum, or None if a value is unknown."""
    return None if None in values else sum(value for value in values if value is not None)
