"""Energy of training and inference over the lifetime of a model, from run records; pure."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.metrics import JOULES_PER_KWH, known_sum
from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.record.find import find_records
from ml_energy_callbacks.record.load import load_record
from ml_energy_callbacks.record.schema import FILE_NAME, RunRecord, StageRecord


class Part(msgspec.Struct, kw_only=True, frozen=True):
    """Energy, emissions and cost of training, or of inference.

    Attributes:
        joules: Energy in J, or None if no part of it is known.
        kwh: The same in kWh.
        relative_uncertainty: Half-width of the 95 % interval of ``joules`` as a share of it, or None.
        provenance: ``measured`` if all of it was, else ``estimated``; None if nothing is known.
        co2e_grams: Emissions in g CO2e, or None.
        cost: Cost of the electricity in ``Lifecycle.currency``, or None.
    """

    joules: float | None
    kwh: float | None
    relative_uncertainty: float | None
    provenance: Provenance | None
    co2e_grams: float | None
    cost: float | None


class Shares(msgspec.Struct, kw_only=True, frozen=True):
    """The share of training in the sum of training and inference, 0 to 1; None if a part is unknown.

    Attributes:
        joules: Of the energy.
        joules_low: Lower end of its 95 % interval.
        joules_high: Upper end; 1 if training is a lower bound.
        co2e_grams: Of the emissions.
        cost: Of the cost.
    """

    joules: float | None
    joules_low: float | None
    joules_high: float | None
    co2e_grams: float | None
    cost: float | None


class BreakEven(msgspec.Struct, kw_only=True, frozen=True):
    """The point at which inference has used as much energy as training.

    Attributes:
        predictions: Number of predictions.
        low: Lower end of its 95 % interval.
        high: Upper end, or None if there is none: the energy of a prediction may be 0, or training is a lower bound.
        day: Day of the lifetime, counted from 0 at its start; it may be after the end of the lifetime.
        day_low: Day of ``low``.
        day_high: Day of ``high``, or None.
    """

    predictions: float
    low: float
    high: float | None
    day: float
    day_low: float
    day_high: float | None


class Lifecycle(msgspec.Struct, kw_only=True, frozen=True):
    """Training and inference over the lifetime of a model.

    Attributes:
        runs: Number of training runs, each counted once.
        per_day: Predictions a day.
        days: Length of the lifetime in days.
        predictions: ``per_day`` times ``days``.
        stage: Stage whose energy per sample is used: ``predict``, or else ``test``.
        joules_per_prediction: Energy of a prediction in J, excluding compilation.
        joules_per_token: Energy of a token of that stage in J, excluding compilation; None where tokens were not counted.
        training: Sum of all stages of all training runs.
        inference: All predictions of the lifetime.
        training_share: The share of training in the two.
        lower_bound: Whether training, its share and the break-even are lower bounds, because the energy of a training run is
            unknown or several records of it differ.
        break_even: The point at which inference overtakes training, or None if it is unknown or never reached.
        provenance: ``estimated`` if any part is.
        currency: Currency of the costs; None if the records have different ones.
        notes: What the reader should know.
    """

    runs: int
    per_day: float
    days: float
    predictions: float
    stage: str
    joules_per_prediction: float
    joules_per_token: float | None
    training: Part
    inference: Part
    training_share: Shares
    lower_bound: bool
    break_even: BreakEven | None
    provenance: Provenance | None
    currency: str | None
    notes: list[str]


def load_records(paths: Sequence[Path]) -> list[RunRecord]:
    """Load run records; of a directory, those of all runs below it.

    Raises:
        RecordError: A file is missing or not a run record, or a directory contains none.
    """
    records: list[RunRecord] = []
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112 - a method of Path raises where a directory on the way may not be entered
            records.append(load_record(path))
            continue
        found = find_records(path, _raise_unlisted)
        if not found:
            msg = f"There is no run record below {path}: pass an {FILE_NAME} or a directory that contains some."
            raise RecordError(msg)
        records.extend(load_record(file) for file in found)
    return records


def _raise_unlisted(error: OSError) -> None:
    msg = f"{error.filename} cannot be listed: {error.strerror}; pass directories that can be read."
    raise RecordError(msg) from None


def lifecycle(training: Sequence[RunRecord], prediction: RunRecord, *, per_day: float, days: float) -> Lifecycle:
    """Return the energy of training and inference over the lifetime of a model.

    A training run counts with all of its stages, whether it completed or failed. The errors of training runs are assumed to add
    up, as for one kind of hardware; training and the energy of a prediction are assumed to be independent. The break-even is
    their ratio, with the interval of E. C. Fieller, "Some Problems in Interval Estimation", 1954.

    Args:
        training: Records of the training runs. Several records of one run count once, and the longest one is used: a run that
            is resumed from a checkpoint includes what came before the checkpoint, but not what the run's other records used
            after it. If the records differ, training is a lower bound.
        prediction: The record whose stage ``predict``, or else ``test``, has the energy of a prediction.
        per_day: Predictions a day.
        days: Length of the lifetime in days.

    Raises:
        ConfigurationError: A number is not above 0, the number of predictions is too large, or no training run is given.
        RecordError: The record has no energy of a prediction.
    """
    for name, value in (("predictions a day", per_day), ("days", days)):
        if not 0 < value < math.inf:
            msg = f"The number of {name} is {value:g}; give one above 0."
            raise ConfigurationError(msg)
    if not training:
        msg = "No training run is given; pass the record of at least one."
        raise ConfigurationError(msg)
    runs = longest_of_each_run(training)
    name, stage, per_sample = _prediction_stage(prediction)
    predictions = per_day * days
    if not math.isfinite(predictions * per_sample):
        msg = f"{per_day:g} predictions a day for {days:g} days are too many to calculate with; give fewer."
        raise ConfigurationError(msg)
    currency = prediction.total.currency if {run.total.currency for run in runs} == {prediction.total.currency} else None
    trained = _sum_of_training(runs, currency)
    inferred = _scale_to_inference(stage, per_sample, predictions, currency)
    lower_bound = any(run.total.joules is None or run.lower_bound or has_other_records(run, training) for run in runs)
    even = _break_even(trained, per_sample, stage.relative_uncertainty, per_day, lower_bound=lower_bound)
    return Lifecycle(
        runs=len(runs),
        per_day=per_day,
        days=days,
        predictions=predictions,
        stage=name,
        joules_per_prediction=per_sample,
        joules_per_token=stage.joules_per_token,
        training=trained,
        inference=inferred,
        training_share=_shares(trained, inferred, even, predictions),
        lower_bound=lower_bound,
        break_even=even,
        provenance=provenance_of([trained.provenance, inferred.provenance]),
        currency=currency,
        notes=list(_notes(training, runs, prediction, currency)),
    )


def longest_of_each_run(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return one record of each run: a run that was resumed includes what came before."""
    runs: dict[str, RunRecord] = {}
    for record in records:
        known = runs.get(record.run.id)
        if known is None or record.total.seconds > known.total.seconds:
            runs[record.run.id] = record
    return list(runs.values())


def has_other_records(run: RunRecord, records: Sequence[RunRecord]) -> bool:
    """Return whether another record of this run may include energy that this one lacks.

    The records do not show whether another one is a branch, resumed from a checkpoint, or an early copy of the file.
    """
    return any(record.run.id == run.run.id and record != run for record in records)


def _prediction_stage(record: RunRecord) -> tuple[str, StageRecord, float]:
    for name in ("predict", "test"):
        stage = record.stages.get(name)
        if stage is not None and stage.joules_per_sample is not None:
            return name, stage, stage.joules_per_sample
    msg = (
        f"Run {record.run.id[:8]} has no energy of a prediction: pass a record whose stage predict, or test, "
        "has samples and a measured device."
    )
    raise RecordError(msg)


def _sum_of_training(runs: Sequence[RunRecord], currency: str | None) -> Part:
    known = [run for run in runs if run.total.joules is not None]
    joules = known_sum([run.total.joules for run in known])
    # A run without energy adds no uncertainty.
    half = known_sum([_half_width(run) for run in known if run.total.joules])
    return _make_part(
        joules,
        relative_uncertainty=half / joules if half is not None and joules else None,
        provenance=provenance_of([run.total.provenance for run in known]),
        co2e_grams=known_sum([run.total.co2e_grams for run in known]),
        cost=None if currency is None else known_sum([run.total.cost for run in known]),
    )


def _half_width(run: RunRecord) -> float | None:
    share = run.total.relative_uncertainty
    return None if share is None or run.total.joules is None else share * run.total.joules


def _scale_to_inference(stage: StageRecord, per_sample: float, predictions: float, currency: str | None) -> Part:
    joules = per_sample * predictions

    def scale(of_stage: float | None) -> float | None:
        return None if of_stage is None or not stage.joules else of_stage / stage.joules * joules

    return _make_part(
        joules,
        relative_uncertainty=stage.relative_uncertainty,
        provenance=stage.provenance,
        co2e_grams=scale(stage.co2e_grams),
        cost=None if currency is None else scale(stage.cost),
    )


def _make_part(
    joules: float | None,
    *,
    relative_uncertainty: float | None,
    provenance: Provenance | None,
    co2e_grams: float | None,
    cost: float | None,
) -> Part:
    return Part(
        joules=joules,
        kwh=None if joules is None else joules / JOULES_PER_KWH,
        relative_uncertainty=relative_uncertainty,
        provenance=provenance,
        co2e_grams=co2e_grams,
        cost=cost,
    )


def provenance_of(parts: Sequence[Provenance | None]) -> Provenance | None:
    """Return that of a sum: ``estimated`` if any part is, ``measured`` if all known parts are, None if none is known."""
    if "estimated" in parts:
        return "estimated"
    return "measured" if "measured" in parts else None


def _break_even(
    training: Part, per_sample: float, uncertainty: float | None, per_day: float, *, lower_bound: bool
) -> BreakEven | None:
    if training.joules is None or training.relative_uncertainty is None or uncertainty is None or per_sample <= 0:
        return None
    predictions = training.joules / per_sample
    u, v = training.relative_uncertainty, uncertainty
    root = math.sqrt(max(0.0, u**2 + v**2 - u**2 * v**2))
    low = predictions * max(0.0, 1 - u**2) / (1 + root)
    high = None if lower_bound or v >= 1 else predictions * (1 + root) / (1 - v**2)
    return BreakEven(
        predictions=predictions,
        low=low,
        high=high,
        day=predictions / per_day,
        day_low=low / per_day,
        day_high=None if high is None else high / per_day,
    )


def _shares(training: Part, inference: Part, even: BreakEven | None, predictions: float) -> Shares:
    """Return the shares; the energy's interval is that of the ratio of training to inference."""
    return Shares(
        joules=_share(training.joules, inference.joules),
        joules_low=None if even is None else even.low / (even.low + predictions),
        joules_high=None if even is None else 1.0 if even.high is None else even.high / (even.high + predictions),
        co2e_grams=_share(training.co2e_grams, inference.co2e_grams),
        cost=_share(training.cost, inference.cost),
    )


def _share(training: float | None, inference: float | None) -> float | None:
    return None if training is None or inference is None or training + inference <= 0 else training / (training + inference)


def _notes(
    training: Sequence[RunRecord], runs: Sequence[RunRecord], prediction: RunRecord, currency: str | None
) -> Iterator[str]:
    both = any(run.run.id == prediction.run.id for run in runs)
    everything = [*runs] if both else [*runs, prediction]
    if both:
        yield f"Run {prediction.run.id[:8]} provides the energy of a prediction and is also counted as a training run."
    for run in runs:
        yield from _notes_on_run(run, training)
    for run in everything:
        if run.run.status == "running":
            yield f"Run {run.run.id[:8]} is still running or was killed; its current values are used."
    unpriced = [run.run.id[:8] for run in everything if run.total.cost is None and run.total.joules is not None]
    priced = any(run.total.cost is not None for run in everything)
    if priced and currency is None:
        currencies = ", ".join(sorted({run.total.currency for run in everything}))
        yield f"The cost is unknown: the records have several currencies ({currencies})."
    elif priced and unpriced:
        yield f"The cost is unknown, because no price was set for run {', '.join(unpriced)}."
    if any(run.carbon.assumed and run.total.co2e_grams is not None for run in everything):
        yield "The emissions are based, at least in part, on the world average intensity, because no location was set."


def _notes_on_run(run: RunRecord, training: Sequence[RunRecord]) -> Iterator[str]:
    name = run.run.id[:8]
    times = sum(record.run.id == run.run.id for record in training)
    if has_other_records(run, training):
        yield (
            f"Run {name} has {times} records that differ: the longest one is used, and the others may include energy that it "
            "lacks; training, its share and the break-even are lower bounds."
        )
    elif times > 1:
        yield f"Run {name} has {times} records; it is counted once."
    if run.total.joules is None:
        yield f"The energy of run {name} is unknown: training, its share and the break-even are lower bounds."
    elif run.lower_bound:
        yield f"Energy of run {name} is missing from its record: training, its share and the break-even are lower bounds."
