"""Energy of the predictions of several models, and their accuracy."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from math import isfinite
from typing import Any, Literal

from ml_energy_callbacks.exceptions import ConfigurationError, EnergyError
from ml_energy_callbacks.inference.costs import (
    cost_fields,
    find_differences,
    finding_fields,
    first_failure,
    is_usable,
    verdicts_against,
)
from ml_energy_callbacks.inference.engine import Call, Case, Measured, measure_cases
from ml_energy_callbacks.inference.models import (
    check_outputs,
    in_eval_mode,
    join_batches,
    predictor,
    shape_of_sample,
    size_on_disk,
    wait_for_outputs,
)
from ml_energy_callbacks.inference.options import bench_of, check_measurement, quiet_meter
from ml_energy_callbacks.inference.results import Comparison, Difference, ModelCost
from ml_energy_callbacks.readings import Backend
from ml_energy_callbacks.record.schema import RunRecord

_Predict = Callable[[Any], Any]
_Batches = Sequence[tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class _Quality:
    """Accuracy and size of a model; ``error`` is the exception it raised, and the others are then None."""

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
    """Measure the energy of the predictions of each model, and their accuracy on the same data.

    Shuffled rounds measure a block of calls of each model in turn, so that drift affects all models equally.

    Args:
        models: By name: torch modules (run in eval mode, without gradients), Keras models, or callables that accept inputs
            and return outputs of shape (samples, ...). The others are compared with the first.
        data: Batches of (inputs, targets), which are read into memory and passed to the models unchanged.
        metric: Function of all outputs and all targets, of shape (samples, ...); higher is better. torch tensors are passed
            on the CPU, arrays of NumPy and Keras as NumPy arrays, and anything else as a list.
        relative_width: As in :func:`profile_inference`.
        max_seconds: No block starts after this time in s; the earlier pass over the data for the metric is not counted.
        devices: ``"auto"`` or ids and globs, as in :class:`EnergyMeter`.
        backends: Where to look for hardware; None for all known backends.
        seed: Seed of the order within the rounds.
        progress: Called with the results so far after each block.

    Raises:
        ConfigurationError: An option, the data or the metric is invalid, the outputs of a model are not an array or sequence
            with one output per sample, or the shapes of the models' outputs differ; the message says what to do.
        EnergyError: No model could be measured, because each raised an error.
    """
    check_measurement(relative_width, max_seconds, progress)
    _check_arguments(models, data, metric)
    predictors = {name: predictor(name, model) for name, model in models.items()}
    batches = _read_batches(data)

    def summarize(measured: Measured, record: RunRecord) -> Comparison:
        return _make_comparison(measured, record, relative_width, qualities)

    def report_progress(measured: Measured) -> None:
        if progress is not None:
            progress(summarize(measured, meter.record))

    with in_eval_mode(models.values()):
        qualities = _assess_models(models, predictors, batches, metric)
        cases = [Case(name, _make_prepare(predictors[name], batches, quality.error)) for name, quality in qualities.items()]
        with quiet_meter(devices, backends) as meter:
            bench = bench_of(meter)
            measured = measure_cases(
                cases, bench, relative_width=relative_width, max_seconds=max_seconds, seed=seed, progress=report_progress
            )
    if (failure := first_failure(measured.series)) is not None:
        msg = f"No model could be measured. The model {failure}."
        raise EnergyError(msg)
    return summarize(measured, meter.record)


def _check_arguments(models: object, data: object, metric: object) -> None:
    if not isinstance(models, Mapping) or not models:
        msg = "There is no model to compare; pass a dictionary of names and models."
        raise ConfigurationError(msg)
    if not isinstance(data, Iterable):
        msg = f"The data are a {type(data).__name__}; pass batches of (inputs, targets)."
        raise ConfigurationError(msg)
    if not callable(metric):
        msg = f"The metric is a {type(metric).__name__}; pass a function of the outputs and the targets."
        raise ConfigurationError(msg)


def _read_batches(data: Iterable[tuple[Any, Any]]) -> _Batches:
    batches: list[tuple[Any, Any]] = []
    for number, batch in enumerate(data):
        try:
            inputs, targets = batch
            samples = len(targets)
        except (TypeError, ValueError):
            msg = f"Batch {number} of the data is not a pair (inputs, targets) with one target per sample; pass such pairs."
            raise ConfigurationError(msg) from None
        if samples:
            batches.append((inputs, targets))
    if not batches:
        msg = "The data contain no samples; pass batches of (inputs, targets)."
        raise ConfigurationError(msg)
    return batches


def _join_targets(batches: _Batches) -> Any:  # noqa: ANN401 - of any framework
    try:
        return join_batches([targets for _, targets in batches])
    except (TypeError, ValueError, RuntimeError) as error:
        msg = f"The targets of the batches cannot be joined ({error}); pass arrays that differ only in the number of samples."
        raise ConfigurationError(msg) from None


def _assess_models(
    models: Mapping[str, object], predictors: Mapping[str, _Predict], batches: _Batches, metric: Callable[[Any, Any], float]
) -> dict[str, _Quality]:
    """Pass over the data once with each model; a model that raises is marked, and the others continue."""
    targets = _join_targets(batches)
    qualities: dict[str, _Quality] = {}
    first: tuple[str, tuple[int, ...]] | None = None
    for name, predict in predictors.items():
        try:
            parts = [predict(inputs) for inputs, _ in batches]
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's model; the others continue
            qualities[name] = _Quality(None, None, error.with_traceback(None))  # its frames keep references to large objects
            continue
        for part, (_, of_batch) in zip(parts, batches, strict=True):
            check_outputs(name, models[name], part, len(of_batch))
        shape = shape_of_sample(parts[0])
        first = first or (name, shape)
        if shape != first[1]:
            msg = (
                f"The model {name!r} returns {shape} for a sample and {first[0]!r} returns {first[1]}; "
                "compare models whose outputs have the same shape."
            )
            raise ConfigurationError(msg)
        qualities[name] = _Quality(_compute_metric(name, metric, parts, targets), size_on_disk(models[name]))
    return qualities


def _compute_metric(name: str, metric: Callable[[Any, Any], float], parts: Sequence[Any], targets: Any) -> float:  # noqa: ANN401
    try:
        accuracy = float(metric(join_batches(parts), targets))
    except Exception as error:
        msg = f"The metric failed on the outputs of the model {name!r} ({type(error).__name__}: {error}); fix the metric."
        raise ConfigurationError(msg) from error
    if not isfinite(accuracy):
        msg = f"The metric of the model {name!r} is {accuracy}; use a metric that returns a finite number for this data."
        raise ConfigurationError(msg)
    return accuracy


def _make_prepare(predict: _Predict, batches: _Batches, error: Exception | None) -> Callable[[], Call]:
    """Return the function that prepares the calls of a model: each call predicts the next batch, in a cycle."""

    def call(turns: Iterator[tuple[Any, Any]]) -> int:
        inputs, targets = next(turns)
        wait_for_outputs(predict(inputs))
        return len(targets)

    def prepare() -> Call:
        if error is not None:
            raise error
        return ready

    ready = partial(call, cycle(batches))
    return prepare


def _make_comparison(
    measured: Measured, record: RunRecord, relative_width: float, qualities: Mapping[str, _Quality]
) -> Comparison:
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
    pairs = find_differences(measured, relative_width)
    _mark_pareto(models, pairs)
    return Comparison(models=models, differences=pairs, **found)


def _mark_pareto(models: Sequence[ModelCost], differences: Sequence[Difference]) -> None:
    """Mark the models for which provably no other model, or provably one, is at least as accurate with less energy."""
    usable = {model.name: model.accuracy for model in models if model.accuracy is not None and is_usable(model)}
    for model in models:
        joules = model.joules_per_sample
        if model.name not in usable or joules is None or joules.half_width is None:
            continue
        verdicts = verdicts_against(model.name, differences)
        rivals = [name for name in usable if name != model.name and usable[name] >= usable[model.name]]
        if any(verdicts.get(rival) == "less" for rival in rivals):
            model.pareto = False
        elif all(verdicts.get(rival) in {"more", "no difference"} for rival in rivals):
            model.pareto = True
