"""Energy of a prediction at each batch size."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

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
from ml_energy_callbacks.inference.models import in_eval_mode, predictor, wait_for_outputs
from ml_energy_callbacks.inference.options import (
    bench_of,
    check_latency_limit,
    check_measurement,
    check_whole_numbers,
    quiet_meter,
)
from ml_energy_callbacks.inference.results import BatchCost, Difference, Profile
from ml_energy_callbacks.readings import Backend
from ml_energy_callbacks.record.schema import RunRecord

_Batch = TypeVar("_Batch")


def profile_inference(
    fn: Callable[[_Batch], object],
    make_batch: Callable[[int], _Batch],
    batch_sizes: Iterable[int] = (1, 2, 4, 8, 16, 32),
    *,
    relative_width: float = 0.05,
    max_seconds: float = 120.0,
    latency_limit: float | None = None,
    devices: Literal["auto"] | Sequence[str] = "auto",
    backends: Sequence[Backend] | None = None,
    seed: int = 0,
    progress: Callable[[Profile], None] | None = None,
) -> Profile:
    """Measure the energy of a prediction at each batch size, and find the best size if the measurement can decide it.

    Idle power is measured first. Then shuffled rounds measure a block of calls of each size, until the interval of its mean is
    narrow enough. The measurement waits for each call to complete.

    Args:
        fn: Predicts a batch: a torch module (run in eval mode, without gradients), a Keras model, or a callable that has
            completed its work when it returns.
        make_batch: Returns a batch of this number of samples; it is called before each block and is not measured.
        batch_sizes: The batch sizes to measure.
        relative_width: Requested half-width of the 95 % interval of joules per sample, as a fraction. To detect a difference
            of 5 %, set 0.01.
        max_seconds: No block starts after this time in s; sizes that are not decided by then are ``undecided``.
        latency_limit: Longest acceptable p95 latency of a call in s, for the best batch size.
        devices: ``"auto"`` or ids and globs, as in :class:`EnergyMeter`.
        backends: Where to look for hardware; None for all known backends.
        seed: Seed of the order within the rounds.
        progress: Called with the results so far after each block.

    Raises:
        ConfigurationError: An option is invalid, or ``fn`` returns before it has predicted, as coroutine functions and
            generators do; the message says what to do.
        EnergyError: No batch size could be measured, because the call raised an error at each.
    """
    sizes = check_whole_numbers("batch_sizes", batch_sizes, "batch size", (1, 8, 64))
    _check_make_batch(make_batch)
    check_latency_limit(latency_limit)
    check_measurement(relative_width, max_seconds, progress)
    predict = predictor("fn", fn)
    cases = [Case(str(size), partial(_prepare_call, predict, make_batch, size)) for size in sizes]

    def summarize(measured: Measured, record: RunRecord) -> Profile:
        return _make_profile(measured, record, relative_width, latency_limit)

    def report_progress(measured: Measured) -> None:
        if progress is not None:
            progress(summarize(measured, meter.record))

    with quiet_meter(devices, backends) as meter, in_eval_mode([fn]):
        bench = bench_of(meter)
        measured = measure_cases(
            cases, bench, relative_width=relative_width, max_seconds=max_seconds, seed=seed, progress=report_progress
        )
    if (failure := first_failure(measured.series)) is not None:
        msg = f"No batch size could be measured. At batch size {failure}."
        raise EnergyError(msg)
    return summarize(measured, meter.record)


def _check_make_batch(make_batch: object) -> None:
    if not callable(make_batch):
        msg = f"make_batch is a {type(make_batch).__name__}; pass a function that returns a batch of a given number of samples."
        raise ConfigurationError(msg)


def _prepare_call(predict: Callable[[Any], object], make_batch: Callable[[int], Any], size: int) -> Call:
    batch = make_batch(size)

    def call() -> int:
        wait_for_outputs(predict(batch))
        return size

    return call


def _make_profile(measured: Measured, record: RunRecord, relative_width: float, latency_limit: float | None) -> Profile:
    sizes = [
        BatchCost(batch_size=int(series.case.name), **cost_fields(series, measured.idle_watts, relative_width))
        for series in measured.series
    ]
    pairs = find_differences(measured, relative_width)
    ranks = _rank_sizes(sizes, pairs, latency_limit)
    found = finding_fields(measured, record, relative_width)
    return Profile(sizes=sizes, differences=pairs, latency_limit_s=latency_limit, **ranks, **found)


def _rank_sizes(sizes: Sequence[BatchCost], differences: Sequence[Difference], latency_limit: float | None) -> dict[str, Any]:
    """Return the fields ``best``, ``alike`` and ``candidates``: a size without a verdict could also be the best one."""
    rivals = [size for size in sizes if is_usable(size) and _may_fit(size, latency_limit)]
    joules = {size.batch_size: found for size in rivals if (found := size.joules_per_sample) is not None}
    if not joules:
        return {"best": None, "alike": [], "candidates": []}
    least = min(joules, key=lambda size: joules[size].mean)
    verdicts = verdicts_against(str(least), differences)
    others = [size.batch_size for size in rivals if size.batch_size != least]
    undecided = [size for size in others if verdicts.get(str(size)) not in {"more", "no difference"}]
    if undecided or joules[least].half_width is None:
        return {"best": None, "alike": [], "candidates": [least, *undecided]}
    return {"best": least, "alike": [size for size in others if verdicts[str(size)] == "no difference"], "candidates": []}


def _may_fit(size: BatchCost, latency_limit: float | None) -> bool:
    return latency_limit is None or size.latency is None or size.latency.p95_s <= latency_limit
