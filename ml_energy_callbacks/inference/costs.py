"""Measurements to costs; pure."""

import math
from collections.abc import Sequence
from typing import Any

from ml_energy_callbacks.inference.engine import MIN_REPEATS, Measured, Series
from ml_energy_callbacks.inference.results import Cost, Difference, Interval, State, Verdict
from ml_energy_callbacks.inference.student import differences, interval
from ml_energy_callbacks.meter.summary import latency_record
from ml_energy_callbacks.metrics import JOULES_PER_WH, ratio
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.quantities import quantity


def cost_fields(series: Series, idle_watts: Interval | None, relative_width: float) -> dict[str, Any]:
    """Return the fields of a :class:`Cost`."""
    joules = interval(list(series.joules_per_sample.values()))
    state, note = _describe_state(series, joules, relative_width)
    return {
        "joules_per_sample": joules,
        "joules_per_sample_above_idle": _above_idle(series, idle_watts),
        "wh_per_1000_samples": None if joules is None else joules.mean / JOULES_PER_WH * 1000,
        "samples_per_second": interval([1 / seconds for seconds in series.seconds_per_sample.values()]),
        "latency": latency_record(series.latencies),
        "repeats": len(series.blocks),
        "state": state,
        "note": note,
    }


def finding_fields(measured: Measured, record: RunRecord, relative_width: float) -> dict[str, Any]:
    """Return the fields of :class:`Findings`."""
    return {
        "idle_watts": measured.idle_watts,
        "relative_uncertainty": record.total.relative_uncertainty,
        "provenance": record.total.provenance,
        "devices": [device.id for device in record.devices],
        "relative_width": relative_width,
        "seconds": measured.seconds,
        "warnings": record.warnings,
    }


def find_differences(measured: Measured, relative_width: float) -> list[Difference]:
    """Return the difference of each pair of cases in the energy of a sample."""
    return differences({one.case.name: one.joules_per_sample for one in measured.series}, relative_width)


def is_usable(cost: Cost) -> bool:
    """Return whether the model or batch size can be used: it never raised an error."""
    return cost.state in {"measured", "undecided"}


def verdicts_against(name: str, pairs: Sequence[Difference]) -> dict[str, Verdict]:
    """Return how the energy of the others compares with this one, by name; without those that were not compared with it."""
    turned: dict[Verdict, Verdict] = {"more": "less", "less": "more"}
    found = {pair.b: pair.verdict for pair in pairs if pair.a == name}
    return found | {pair.a: turned.get(pair.verdict, pair.verdict) for pair in pairs if pair.b == name}


def first_failure(all_series: Sequence[Series]) -> str | None:
    """Return the error of the first case if all cases failed with an error before any repeat; else None."""
    failed = [f"{series.case.name}: {series.error}" for series in all_series if series.error is not None and not series.blocks]
    return failed[0] if len(failed) == len(all_series) else None


def _above_idle(series: Series, idle_watts: Interval | None) -> Interval | None:
    """Return the energy of a sample without the idle energy of the same time; the two errors are independent."""
    if idle_watts is None:
        return None
    seconds, joules = series.seconds_per_sample, series.joules_per_sample
    left = interval([joules[i] - idle_watts.mean * seconds[i] for i in joules])
    if left is None or left.half_width is None or idle_watts.half_width is None:
        return left
    mean_seconds = sum(seconds[i] for i in joules) / len(joules)
    return Interval(mean=left.mean, half_width=math.hypot(left.half_width, idle_watts.half_width * mean_seconds))


def _describe_state(series: Series, joules: Interval | None, relative_width: float) -> tuple[State, str | None]:
    if series.error is not None:
        kept = f"; the {len(series.blocks)} repeats before it are kept" if series.blocks else ""
        if series.too_large:
            return "out_of_memory", f"Out of memory ({series.error}){kept}."
        return "failed", f"Failed with {series.error.rstrip('.')}{kept}."
    if series.decided:
        return "measured", None
    return "undecided", _describe_progress(series, joules, relative_width)


def _describe_progress(series: Series, joules: Interval | None, relative_width: float) -> str:
    repeats = len(series.blocks)
    if repeats < MIN_REPEATS:
        return f"Stopped after {repeats} of {MIN_REPEATS} repeats; raise --seconds (max_seconds)."
    what = joules or interval(list(series.seconds_per_sample.values()))
    share = None if what is None else ratio(what.half_width, what.mean / 100)
    return (
        f"Stopped after {repeats} repeats at ±{quantity(share, '%')} instead of ±{quantity(100 * relative_width, '%')}; raise "
        "--seconds (max_seconds) or --width (relative_width), or reduce other load on the machine."
    )
