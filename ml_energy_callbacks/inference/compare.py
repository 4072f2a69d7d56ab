"""What the predictions of several models cost, and how good they are."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from math import isfinite
from typing import Any, Literal

from ml_energy_callbacks.exceptions import ConfigurationError, EnergyError
from ml_energy_callbacks.inference.costs import cost_fields, finding_fields, first_failure, verdicts_against, works
from ml_energy_callbacks.inference.engine import Call, Case, Measured, MeterBench, measure
from ml_energy_callbacks.inference.models import (
    check_outputs,
    evaluating,
    joined,
    predictor,
    shape_of_sample,
    size_on_disk,
    wait_for,
)
from ml_energy_callbacks.inference.options import check_bounds, quiet_meter, slowest_refresh_s
from ml_energy_callbacks.inference.results import Comparison, Difference, ModelCost
from ml_energy_callbacks.readings import Backend
from ml_energy_callbacks.record.schema import RunRecord

_Predict = Callable[[Any], Any]
_Batches = Sequence[tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class _Quality:
    """How good a model is; ``error`` is what it raised, and the others are then None."""

    accuracy: float | None
    size_bytes: int | None
    error: Exception | None = None


def compare_models(
    models: Mapping[str, object],
    data: Iterable[tuple[Any, Any]],
    metric: Callable[[Any, Any], float],
    *,
    relative_width: float = 0.05,
    max_seconds: float = 120.0,
    devices: Literal["auto"] | Sequence[str] = "auto",
    backends: Sequence[Backend] | None = None,
    seed: int = 0,
    progress: Callable[[Comparison], None] | None = None,
) -> Comparison:
    """Measure what the predictions of each model cost, and how good they are on the same data.

    The models take turns in shuffled rounds, a block of calls at a time, so that what drifts hits all alike.

    Args:
        models: By name: torch modules (run in eval mode, without gradients), Keras models, or callables that take inputs and
            return outputs of shape (samples, ...). The others are compared with the first.
        data: Batches of (inputs, targets), which are read into memory and given to the models as they are.
        metric: Function of all outputs and all targets, of shape (samples, ...); higher is better. Tensors of torch are on
            the processor, NumPy's and Keras's are NumPy arrays, and what is no array is a list.
        relative_width: As in :func:`profile_inference`.
        max_seconds: No block begins after so many seconds; the pass over the data for the metric, before, is not counted.
        devices: ``"auto"`` or ids and globs, as in :class:`EnergyMeter`.
        backends: Hardware to look for; None for all that is known.
        seed: Of the order within the rounds.
        progress: Is told what is known after each block.

    Raises:
        ConfigurationError: An option, the data or the metric cannot work, a model's outputs are no array or sequence with one
            output for each sample, or the models' differ in shape; the message says what to do.
        EnergyError: No model could be measured, as each raised.
    """
    check_bounds(relative_width, max_seconds)
    _check(models, data, metric)
    predictors = {name: predictor(name, model) for name, model in models.items()}
    batches = _read(data)

    def comparison(measured: Measured, record: RunRecord) -> Comparison:
        return _comparison(measured, record, relative_width, qualities)

    def tell(measured: Measured) -> None:
        if progress is not None:
            progress(comparison(measured, meter.record))

    with evaluating(models.values()):
        qualities = _judge(models, predictors, batches, metric)
        cases = [Case(name, _caller(predictors[name], batches, quality.error)) for name, quality in qualities.items()]
        with quiet_meter(devices, backends) as meter:
            bench = MeterBench(meter, partial(slowest_refresh_s, meter))
            measured = measure(cases, bench, relative_width=relative_width, max_seconds=max_seconds, seed=seed, progress=tell)
    if (failure := first_failure(measured.series)) is not None:
        msg = f"No model could be measured. The model {failure}."
        raise EnergyError(msg)
    return comparison(measured, meter.record)


def _check(models: object, data: object, metric: object) -> None:
    if not isinstance(models, Mapping) or not models:
        msg = "There is no model to compare; give a dictionary of names and models."
        raise ConfigurationError(msg)
    if not isinstance(data, Iterable):
        msg = f"The data are a {type(data).__name__}; give batches of (inputs, targets)."
        raise ConfigurationError(msg)
    if not callable(metric):
        msg = f"The metric is a {type(metric).__name__}; give a function of the outputs and the targets."
        raise ConfigurationError(msg)


def _read(data: Iterable[tuple[Any, Any]]) -> _Batches:
    batches: list[tuple[Any, Any]] = []
    for number, batch in enumerate(data):
        try:
            inputs, targets = batch
            samples = len(targets)
        except (TypeError, ValueError):
            msg = f"Batch {number} of the data is no (inputs, targets) with as many targets as samples; give such pairs."
            raise ConfigurationError(msg) from None
        if samples:
            batches.append((inputs, targets))
    if not batches:
        msg = "The data holds no sample; give batches of (inputs, targets)."
        raise ConfigurationError(msg)
    return batches


def _joined_targets(batches: _Batches) -> Any:  # noqa: ANN401 - of any framework
    try:
        return joined([targets for _, targets in batches])
    except (TypeError, ValueError, RuntimeError) as error:
        msg = (
            f"The targets of the batches do not go together ({error}); give arrays that differ in the number of samples alone."
        )
        raise ConfigurationError(msg) from None


def _judge(
    models: Mapping[str, object], predictors: Mapping[str, _Predict], batches: _Batches, metric: Callable[[Any, Any], float]
) -> dict[str, _Quality]:
    """Pass over the data once with each model; one that raises is marked, and the others go on."""
    targets = _joined_targets(batches)
    qualities: dict[str, _Quality] = {}
    first: tuple[str, tuple[int, ...]] | None = None
    for name, predict in predictors.items():
        try:
            parts = [predict(inputs) for inputs, _ in batches]
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's model; the others go on
            qualities[name] = _Quality(None, None, error.with_traceback(None))  # its frames hold what fills the memory
            continue
        for part, (_, of_batch) in zip(parts, batches, strict=True):
            check_outputs(name, models[name], part, len(of_batch))
        shape = shape_of_sample(parts[0])
        first = first or (name, shape)
        if shape != first[1]:
            msg = (
                f"The model {name!r} returns {shape} for a sample and {first[0]!r} returns {first[1]}; "
                "compare models whose outputs have one shape."
            )
            raise ConfigurationError(msg)
        qualities[name] = _Quality(_score(name, metric, parts, targets), size_on_disk(models[name]))
    return qualities


def _score(name: str, metric: Callable[[Any, Any], float], parts: Sequence[Any], targets: Any) -> float:  # noqa: ANN401
    try:
        accuracy = float(metric(joined(parts), targets))
    except Exception as error:
        msg = f"The metric failed on the outputs of the model {name!r} ({type(error).__name__}: {error}); mend the metric."
        raise ConfigurationError(msg) from error
    if not isfinite(accuracy):
        msg = f"The metric of the model {name!r} is {accuracy}; give a metric that is a finite number on this data."
        raise ConfigurationError(msg)
    return accuracy


def _caller(predict: _Predict, batches: _Batches, error: Exception | None) -> Callable[[], Call]:
    """Return what prepares the calls of a model: each predicts the next batch, round and round."""

    def call(turns: Iterator[tuple[Any, Any]]) -> int:
        inputs, targets = next(turns)
        wait_for(predict(inputs))
        return len(targets)

    def prepare() -> Call:
        if error is not None:
            raise error
        return ready

    ready = partial(call, cycle(batches))
    return prepare


def _comparison(measured: Measured, record: RunRecord, relative_width: float, qualities: Mapping[str, _Quality]) -> Comparison:
    found = finding_fields(measured, record, relative_width)
    models = []
    for series in measured.series:
        name = series.case.name
        models.append(
            ModelCost(
                name=name,
                accuracy=qualities[name].accuracy,
                size_bytes=qualities[name].size_bytes,
                pareto=None,
                **cost_fields(series, measured.idle_watts, relative_width),
            )
        )
    _mark_pareto(models, found["differences"])
    return Comparison(models=models, **found)


def _mark_pareto(models: Sequence[ModelCost], differences: Sequence[Difference]) -> None:
    """Mark those whom provably no other model beats, or provably one does: at least as accurate, and less energy."""
    usable = {model.name: model.accuracy for model in models if model.accuracy is not None and works(model)}
    for model in models:
        joules = model.joules_per_sample
        if model.name not in usable or joules is None or joules.half_width is None:
            continue
        takes = verdicts_against(model.name, differences)
        rivals = [name for name in usable if name != model.name and usable[name] >= usable[model.name]]
        if any(takes.get(rival) == "less" for rival in rivals):
            model.pareto = False
        elif all(takes.get(rival) in {"more", "no difference"} for rival in rivals):
            model.pareto = True
