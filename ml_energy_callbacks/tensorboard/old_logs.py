"""Records of runs whose logs have no snapshots, as those of earlier releases: made of their scalars; pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final, NamedTuple

from ml_energy_callbacks.metrics import JOULES_PER_KWH, STAGES, ratio
from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.record.schema import (
    CarbonRecord,
    EpochRecord,
    ForecastRecord,
    PhaseRecord,
    Run,
    RunRecord,
    StageRecord,
    TotalRecord,
)

_QUANTITIES: Final = {
    "total": ("joules", "kwh", "co2e_grams", "relative_uncertainty", "measured_share", "intensity_assumed", "lower_bound"),
    "forecast": ("kwh", "kwh_low", "kwh_high", "co2e_grams", "seconds_left"),
} | dict.fromkeys(STAGES, ("joules", "watts", "joules_per_sample", "co2e_grams", "compute_joules", "data_wait_joules"))

TAGS: Final = [
    f"{prefix}energy/{group}/{quantity}"
    for prefix in ("", "train/")  # Transformers puts one before each name
    for group, quantities in _QUANTITIES.items()
    for quantity in quantities
]
"""The tags that a record is made of."""


class _Value(NamedTuple):
    step: int
    time: float
    value: float


_Series = Mapping[str, Sequence[_Value]]


def record_of(name: str, runs: Sequence[Mapping[str, Iterable[Any]]]) -> RunRecord | None:
    """Return the record of a run, as far as its scalars show it.

    Args:
        name: Name of the run.
        runs: The series of TensorBoard's runs that belong to it, by tag.

    Returns:
        None if they hold nothing of a whole run or a stage.
    """
    series: dict[str, Sequence[_Value]] = {}
    for run in runs:
        for tag, data in run.items():
            metric = tag.removeprefix("train/")
            values = [_Value(each.step, each.wall_time, each.value) for each in data if isfinite(each.value)]
            if len(values) > len(series.get(metric, ())):
                series[metric] = values
    times = [value.time for values in series.values() for value in values]
    stages: dict[str, StageRecord] = {stage: found for stage in STAGES if (found := _stage(series, stage)) is not None}
    if not times or not (stages or any(metric.startswith("energy/total/") for metric in series)):
        return None
    epochs = [epoch for stage in stages for epoch in _epochs(series, stage, min(times))]
    began = min([0.0, *(epoch.started_s for epoch in epochs if epoch.started_s is not None)])
    for epoch in epochs:
        epoch.started_s = None if epoch.started_s is None else epoch.started_s - began
    first = min(times) + began
    total = _total(series, stages, max(times) - first)
    return RunRecord(
        run=Run(
            id=name,
            started_at=datetime.fromtimestamp(first, UTC).isoformat(timespec="seconds"),
            status="completed",
            framework="unknown",
            hostnames=[],
        ),
        devices=[],
        stages=stages,
        epochs=sorted(epochs, key=lambda epoch: epoch.started_s or 0.0),
        total=total,
        carbon=CarbonRecord(
            intensity_g_per_kwh=ratio(total.co2e_grams, total.kwh) or 0.0,
            location=None,
            source="",
            data_year=None,
            assumed="energy/total/intensity_assumed" in series,
            pue=1.0,
        ),
        forecast=_forecast(series),
    )


def _last(series: _Series, name: str) -> float | None:
    values = series.get(f"energy/{name}")
    return values[-1].value if values else None


def _sum(series: _Series, name: str) -> float | None:
    values = series.get(f"energy/{name}")
    return sum(value.value for value in values) if values else None


def _stage(series: _Series, stage: str) -> StageRecord | None:
    joules, per_sample, watts = (_sum(series, f"{stage}/joules"), *(_last(series, f"{stage}/{n}") for n in _RATES))
    if joules is None and per_sample is None and watts is None:
        return None
    lengths = [epoch.seconds for epoch in _epochs(series, stage, 0.0)]
    phases = {
        phase: PhaseRecord(joules=part, seconds=None, relative_uncertainty=None)
        for phase in ("compute", "data_wait")
        if (part := _sum(series, f"{stage}/{phase}_joules")) is not None
    }
    return StageRecord(
        joules=joules,
        seconds=sum(lengths),
        batches=0,
        samples=None,
        joules_per_sample=per_sample,
        mean_watts=ratio(joules, sum(lengths)) or watts,
        relative_uncertainty=_last(series, "total/relative_uncertainty"),
        provenance=_provenance(series),
        phases=phases,
        devices={},
        co2e_grams=_sum(series, f"{stage}/co2e_grams"),
        cost=None,
    )


_RATES: Final = ("joules_per_sample", "watts")


def _epochs(series: _Series, stage: str, first: float) -> list[EpochRecord]:
    """Return the epochs of a stage; their starts are in s from the first value on, and before it of the first epoch."""
    by_step = {
        name: {value.step: value.value for value in series.get(f"energy/{stage}/{name}", ())}
        for name in (*_RATES, "co2e_grams", "compute_joules", "data_wait_joules")
    }
    found = []
    for index, (step, time, joules) in enumerate(series.get(f"energy/{stage}/joules", ())):
        seconds = ratio(joules, by_step["watts"].get(step)) or 0.0
        samples = ratio(joules, by_step["joules_per_sample"].get(step))
        parts = {phase: by_step[f"{phase}_joules"].get(step) for phase in ("compute", "data_wait")}
        found.append(
            EpochRecord(
                stage=stage,
                index=index,
                joules=joules,
                seconds=seconds,
                samples=None if samples is None else round(samples),
                co2e_grams=by_step["co2e_grams"].get(step),
                started_s=time - first - seconds,
                phases={phase: part for phase, part in parts.items() if part is not None},
            )
        )
    return found


def _provenance(series: _Series) -> Provenance | None:
    measured = _last(series, "total/measured_share")
    return None if measured is None else "measured" if measured >= _ALL else "estimated"


_ALL = 0.999999
"""Scalars are single-precision."""


def _total(series: _Series, stages: Mapping[str, StageRecord], seconds: float) -> TotalRecord:
    joules, kwh = _last(series, "total/joules"), _last(series, "total/kwh")
    if joules is None and kwh is not None:
        joules = kwh * JOULES_PER_KWH
    return TotalRecord(
        joules=joules,
        kwh=None if joules is None else joules / JOULES_PER_KWH,
        seconds=max(seconds, sum(stage.seconds for stage in stages.values())),
        relative_uncertainty=_last(series, "total/relative_uncertainty"),
        provenance=_provenance(series),
        co2e_grams=_last(series, "total/co2e_grams"),
        cost=None,
        currency="",
        lower_bound="energy/total/lower_bound" in series,
    )


def _forecast(series: _Series) -> ForecastRecord | None:
    values = series.get("energy/forecast/kwh")
    if not values:
        return None
    seconds = _last(series, "forecast/seconds_left") or 0.0
    return ForecastRecord(
        after_epochs=len(values),
        kwh=values[-1].value,
        kwh_low=_last(series, "forecast/kwh_low") or values[-1].value,
        kwh_high=_last(series, "forecast/kwh_high") or values[-1].value,
        co2e_grams=_last(series, "forecast/co2e_grams"),
        cost=None,
        seconds_left=seconds,
        ends_at=datetime.fromtimestamp(values[-1].time + seconds, UTC).isoformat(timespec="seconds"),
    )
