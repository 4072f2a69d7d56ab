"""What a prediction costs at each batch size."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Integral
from typing import Any, Literal, TypeVar

from ml_energy_callbacks.exceptions import ConfigurationError, EnergyError
from ml_energy_callbacks.inference.costs import cost_fields, finding_fields, first_failure, verdicts_against, works
from ml_energy_callbacks.inference.engine import Call, Case, Measured, MeterBench, measure
from ml_energy_callbacks.inference.models import evaluating, predictor, wait_for
from ml_energy_callbacks.inference.options import check_bounds, check_latency_limit, quiet_meter, slowest_refresh_s
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
    """Measure what a prediction costs at each batch size, and name the best one, where it can be told.

    Idle power is measured first. Then each size is visited in shuffled rounds, a block of calls at a time, until the interval
    of its mean is narrow enough. Each call is waited for.

    Args:
        fn: Predicts a batch: a torch module (run in eval mode, without gradients), a Keras model, or a callable that has done
            its work when it returns.
        make_batch: Returns a batch of so many samples; it is called before each block, outside of what is measured.
        batch_sizes: Numbers of samples.
        relative_width: Asked half-width of the 95 % interval of joules per sample, as a share. To tell a difference of 5 %,
            ask for 0.01.
        max_seconds: No block begins after so many seconds; what is undecided then says so.
        latency_limit: In s; the best batch size is sought among those whose calls take no longer in 95 % of all cases.
        devices: ``"auto"`` or ids and globs, as in :class:`EnergyMeter`.
        backends: Hardware to look for; None for all that is known.
        seed: Of the order within the rounds.
        progress: Is told what is known after each block.

    Raises:
        ConfigurationError: An option cannot work, or ``fn`` returns before it has predicted, as coroutine functions and
            generators do; the message says what to do.
        EnergyError: No batch size could be measured, as the call raised at each.
    """
    sizes = _whole_numbers(batch_sizes)
    _check(make_batch)
    check_latency_limit(latency_limit)
    check_bounds(relative_width, max_seconds)
    predict = predictor("fn", fn)
    cases = [Case(str(size), partial(_prepare, predict, make_batch, size)) for size in sizes]

    def profile(measured: Measured, record: RunRecord) -> Profile:
        return _profile(measured, record, relative_width, latency_limit)

    def tell(measured: Measured) -> None:
        if progress is not None:
            progress(profile(measured, meter.record))

    with quiet_meter(devices, backends) as meter, evaluating([fn]):
        bench = MeterBench(meter, partial(slowest_refresh_s, meter))
        measured = measure(cases, bench, relative_width=relative_width, max_seconds=max_seconds, seed=seed, progress=tell)
    if (failure := first_failure(measured.series)) is not None:
        msg = f"No batch size could be measured. At batch size {failure}."
        raise EnergyError(msg)
    return profile(measured, meter.record)


def _whole_numbers(batch_sizes: object) -> list[int]:
    if not isinstance(batch_sizes, Iterable):
        msg = f"batch_sizes is {batch_sizes!r}; give several whole numbers, such as (1, 8, 64)."
        raise ConfigurationError(msg)
    sizes = list(batch_sizes)
    if not sizes:
        msg = "There is no batch size to measure; give some, such as (1, 8, 64)."
        raise ConfigurationError(msg)
    wrong = [size for size in sizes if isinstance(size, bool) or not isinstance(size, Integral) or int(size) < 1]
    if wrong or len(set(sizes)) < len(sizes):
        msg = f"batch_sizes are {tuple(sizes)}; give whole numbers from 1 upwards, each once."
        raise ConfigurationError(msg)
    return [int(size) for size in sizes]


def _check(make_batch: object) -> None:
    if not callable(make_batch):
        msg = f"make_batch is a {type(make_batch).__name__}; give a function of the number of samples that returns a batch."
        raise ConfigurationError(msg)


def _prepare(predict: Callable[[Any], object], make_batch: Callable[[int], Any], size: int) -> Call:
    batch = make_batch(size)

    def call() -> int:
        wait_for(predict(batch))
        return size

    return call


def _profile(measured: Measured, record: RunRecord, relative_width: float, latency_limit: float | None) -> Profile:
    sizes = [
        BatchCost(batch_size=int(series.case.name), **cost_fields(series, measured.idle_watts, relative_width))
        for series in measured.series
    ]
    found = finding_fields(measured, record, relative_width)
    return Profile(sizes=sizes, latency_limit_s=latency_limit, **_ranked(sizes, found["differences"], latency_limit), **found)


def _ranked(sizes: Sequence[BatchCost], differences: Sequence[Difference], latency_limit: float | None) -> dict[str, Any]:
    """Return the fields ``best``, ``alike`` and ``candidates``: a rival without a verdict may be the best one, too."""
    rivals = [size for size in sizes if works(size) and _may_fit(size, latency_limit)]
    joules = {size.batch_size: found for size in rivals if (found := size.joules_per_sample) is not None}
    if not joules:
        return {"best": None, "alike": [], "candidates": []}
    least = min(joules, key=lambda size: joules[size].mean)
    takes = verdicts_against(str(least), differences)
    others = [size.batch_size for size in rivals if size.batch_size != least]
    undecided = [size for size in others if takes.get(str(size)) not in {"more", "no difference"}]
    if undecided or joules[least].half_width is None:
        return {"best": None, "alike": [], "candidates": [least, *undecided]}
    return {"best": least, "alike": [size for size in others if takes[str(size)] == "no difference"], "candidates": []}


def _may_fit(size: BatchCost, latency_limit: float | None) -> bool:
    return latency_limit is None or size.latency is None or size.latency.p95_s <= latency_limit
