"""Run records -> what training and inference take over the life of a model; pure."""

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
    """What training, or inference, takes.

    Attributes:
        joules: Energy in J, or None where no part of it is known.
        kwh: The same in kWh.
        relative_uncertainty: Half-width of the 95 % interval of ``joules`` as a share of it, or None.
        provenance: ``measured`` where all of it was, else ``estimated``; None where nothing is known.
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
    """The share of training in the whole of training and inference, 0 to 1; None where a part is unknown.

    Attributes:
        joules: Of the energy.
        joules_low: Lower end of its 95 % interval.
        joules_high: Upper end; 1 where training is a lower bound.
        co2e_grams: Of the emissions.
        cost: Of the cost.
    """

    joules: float | None
    joules_low: float | None
    joules_high: float | None
    co2e_grams: float | None
    cost: float | None


class BreakEven(msgspec.Struct, kw_only=True, frozen=True):
    """Where inference has taken as much energy as training.

    Attributes:
        predictions: Number of predictions.
        low: Lower end of its 95 % interval.
        high: Upper end, or None where there is none: a prediction's energy may be nothing, or training is a lower bound.
        day: Day of the life on which it comes, counted from 0 at its begin; it may be after its end.
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
    """The life of a model.

    Attributes:
        runs: Number of training runs that are counted, each once.
        per_day: Predictions a day.
        days: Length of the life in days.
        predictions: ``per_day`` times ``days``.
        stage: Stage that tells what a prediction takes: ``predict``, or else ``test``.
        joules_per_prediction: Energy of a prediction in J, compiling left out.
        training: All that the training runs took, in all of their stages.
        inference: What the predictions of the life take.
        training_share: The share of training in the two.
        lower_bound: Whether training, its share and the break-even are lower bounds, as a training run's energy is unknown, or
            its several records differ.
        break_even: Where inference overtakes training, or None where that is unknown or never comes.
        provenance: ``estimated`` where any part is.
        currency: Of the costs; None where the records' differ.
        notes: What the reader should know.
    """

    runs: int
    per_day: float
    days: float
    predictions: float
    stage: str
    joules_per_prediction: float
    training: Part
    inference: Part
    training_share: Shares
    lower_bound: bool
    break_even: BreakEven | None
    provenance: Provenance | None
    currency: str | None
    notes: list[str]


def load_records(paths: Sequence[Path]) -> list[RunRecord]:
    """Load run records; below a directory, those of all runs.

    Raises:
        RecordError: A file is missing or no run record, or a directory holds none.
    """
    records: list[RunRecord] = []
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112 - a method of Path raises where a directory on the way may not be entered
            records.append(load_record(path))
            continue
        found = find_records(path, _refuse)
        if not found:
            msg = f"There is no run record below {path}: name an {FILE_NAME} or a directory above some."
            raise RecordError(msg)
        records.extend(load_record(file) for file in found)
    return records


def _refuse(error: OSError) -> None:
    msg = f"{error.filename} cannot be listed: {error.strerror}; name directories that can be read."
    raise RecordError(msg) from None


def lifecycle(training: Sequence[RunRecord], prediction: RunRecord, *, per_day: float, days: float) -> Lifecycle:
    """Return what training and inference take over the life of a model.

    All of a training run counts, in all of its stages, whether it completed or failed. The errors of training runs are taken to
    add up, as those of one kind of hardware do; training and the energy of a prediction are taken as independent. The
    break-even is their ratio, and its interval that of E. C. Fieller, "Some Problems in Interval Estimation", 1954.

    Args:
        training: Records of the training runs. One run's several records count once, as the longest: a run that is resumed from
            a checkpoint holds what came before it, and not what others of its records spent after it. Unless they are all
            alike, training is a lower bound.
        prediction: The record whose stage ``predict``, or else ``test``, tells the energy of a prediction.
        per_day: Predictions a day.
        days: Length of the life in days.

    Raises:
        ConfigurationError: A number is not above 0, the two make too many predictions, or no training run is given.
        RecordError: The record tells no energy of a prediction.
    """
    for name, value in (("predictions a day", per_day), ("days", days)):
        if not 0 < value < math.inf:
            msg = f"The number of {name} is {value:g}; give one above 0."
            raise ConfigurationError(msg)
    if not training:
        msg = "No training run is given; name the record of at least one."
        raise ConfigurationError(msg)
    runs = _distinct(training)
    name, stage, per_sample = _predicting(prediction)
    predictions = per_day * days
    if not math.isfinite(predictions * per_sample):
        msg = f"{per_day:g} predictions a day for {days:g} days are too many to reckon with; give fewer."
        raise ConfigurationError(msg)
    currency = prediction.total.currency if {run.total.currency for run in runs} == {prediction.total.currency} else None
    trained = _training(runs, currency)
    inferred = _inference(stage, per_sample, predictions, currency)
    lower_bound = any(run.total.joules is None or _differs(run, training) for run in runs)
    even = _break_even(trained, per_sample, stage.relative_uncertainty, per_day, lower_bound=lower_bound)
    return Lifecycle(
        runs=len(runs),
        per_day=per_day,
        days=days,
        predictions=predictions,
        stage=name,
        joules_per_prediction=per_sample,
        training=trained,
        inference=inferred,
        training_share=_shares(trained, inferred, even, predictions),
        lower_bound=lower_bound,
        break_even=even,
        provenance=_provenance([trained.provenance, inferred.provenance]),
        currency=currency,
        notes=list(_notes(training, runs, prediction, currency)),
    )


def _distinct(records: Sequence[RunRecord]) -> list[RunRecord]:
    runs: dict[str, RunRecord] = {}
    for record in records:
        known = runs.get(record.run.id)
        if known is None or record.total.seconds > known.total.seconds:
            runs[record.run.id] = record
    return list(runs.values())


def _differs(run: RunRecord, records: Sequence[RunRecord]) -> bool:
    """Return whether another record of this run may hold energy that it does not hold.

    Nothing in the records tells a branch of a run, resumed from its checkpoint, from an early copy of the file.
    """
    return any(record.run.id == run.run.id and record != run for record in records)


def _predicting(record: RunRecord) -> tuple[str, StageRecord, float]:
    for name in ("predict", "test"):
        stage = record.stages.get(name)
        if stage is not None and stage.joules_per_sample is not None:
            return name, stage, stage.joules_per_sample
    msg = (
        f"Run {record.run.id[:8]} tells no energy of a prediction: name a record whose stage predict, or test, "
        "has samples and a device that was read."
    )
    raise RecordError(msg)


def _training(runs: Sequence[RunRecord], currency: str | None) -> Part:
    known = [run for run in runs if run.total.joules is not None]
    joules = known_sum([run.total.joules for run in known])
    # A run without energy has no doubt about it either.
    half = known_sum([_half_width(run) for run in known if run.total.joules])
    return _part(
        joules,
        relative_uncertainty=half / joules if half is not None and joules else None,
        provenance=_provenance([run.total.provenance for run in known]),
        co2e_grams=known_sum([run.total.co2e_grams for run in known]),
        cost=None if currency is None else known_sum([run.total.cost for run in known]),
    )


def _half_width(run: RunRecord) -> float | None:
    share = run.total.relative_uncertainty
    return None if share is None or run.total.joules is None else share * run.total.joules


def _inference(stage: StageRecord, per_sample: float, predictions: float, currency: str | None) -> Part:
    joules = per_sample * predictions

    def scaled(of_stage: float | None) -> float | None:
        return None if of_stage is None or not stage.joules else of_stage / stage.joules * joules

    return _part(
        joules,
        relative_uncertainty=stage.relative_uncertainty,
        provenance=stage.provenance,
        co2e_grams=scaled(stage.co2e_grams),
        cost=None if currency is None else scaled(stage.cost),
    )


def _part(
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


def _provenance(parts: Sequence[Provenance | None]) -> Provenance | None:
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
        yield f"Run {prediction.run.id[:8]}, which tells what a prediction takes, is among the training runs: it counts as one."
    for run in runs:
        yield from _notes_of(run, training)
    for run in everything:
        if run.run.status == "running":
            yield f"Run {run.run.id[:8]} is still running, or was killed: it counts as of now."
    unpriced = [run.run.id[:8] for run in everything if run.total.cost is None and run.total.joules is not None]
    priced = any(run.total.cost is not None for run in everything)
    if priced and currency is None:
        currencies = ", ".join(sorted({run.total.currency for run in everything}))
        yield f"The cost is unknown: the records are in several currencies ({currencies})."
    elif priced and unpriced:
        yield f"The cost is unknown where no price was named: run {', '.join(unpriced)}."
    if any(run.carbon.assumed and run.total.co2e_grams is not None for run in everything):
        yield "The grams are, at least in part, by the world's average intensity: nobody named a place."


def _notes_of(run: RunRecord, training: Sequence[RunRecord]) -> Iterator[str]:
    name = run.run.id[:8]
    times = sum(record.run.id == run.run.id for record in training)
    if _differs(run, training):
        yield (
            f"Run {name} is there {times} times, and its records differ: the longest is counted, and the others may hold "
            "energy that it does not; training, its share and the break-even are lower bounds."
        )
    elif times > 1:
        yield f"Run {name} is there {times} times; it is counted once."
    if run.total.joules is None:
        yield f"The energy of run {name} is unknown: training, its share and the break-even are lower bounds."
