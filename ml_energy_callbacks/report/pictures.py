"""A record, or several, as pictures: where the energy went, over time, by epoch, and against a metric; pure."""

from collections.abc import Sequence
from itertools import accumulate
from math import hypot, isfinite
from typing import Final
from xml.etree.ElementTree import Element

from ml_energy_callbacks.metrics import JOULES_PER_WH
from ml_energy_callbacks.record.schema import DeviceRecord, EpochRecord, RunRecord, StageRecord
from ml_energy_callbacks.report.drawing import (
    EPOCHS,
    Across,
    Bar,
    Part,
    Point,
    Series,
    Spot,
    areas,
    bars,
    lines,
    phase_colour,
    scatter,
    series_colour,
    stage_colour,
)
from ml_energy_callbacks.report.notes import rows_of, stages_of
from ml_energy_callbacks.report.quantities import percent, scaled, scaled_range

NO_ENERGY: Final = "No device could be read, so that the energy is unknown."
_NO_POWER: Final = "This record has no power over time: it is of an earlier release, or the run was too short."
_NO_EPOCHS: Final = "This record has no epochs of known energy and samples."
_UNSEPARATED: Final = "not separated"
_MOST_LAYERS = 8
"""More devices than that are drawn as one."""


def words(name: str) -> str:
    """Return the name of a stage or phase as words."""
    return name.replace("_", " ")


def stage_bars(record: RunRecord) -> Element:
    """Draw the energy of each stage with that of its phases and their intervals."""
    found = [_bar(name, stage, record.total.joules) for name, stage in rows_of(record) if stage.joules]
    hint = "lines: 95 % intervals of the split"
    return bars("Energy by stage and phase", found, unit="J", hint=hint, empty=NO_ENERGY)


def run_bars(runs: Sequence[tuple[str, RunRecord]]) -> Element:
    """Draw the energy of each run with that of its stages; the runs have names."""
    found = [
        Bar(
            label,
            _energy(record.total.joules, None),
            [
                Part(
                    words(name),
                    stage.joules or 0.0,
                    stage_colour(name),
                    f"{label}, {words(name)}: {_energy(stage.joules, record.total.joules)}",
                    estimated=stage.provenance == "estimated",
                )
                for name, stage in stages_of(record)
            ],
        )
        for label, record in runs
    ]
    return bars("Energy of each run by stage", found, unit="J", empty=NO_ENERGY)


def _bar(name: str, stage: StageRecord, total: float | None) -> Bar:
    estimated = stage.provenance == "estimated"
    parts = []
    rest, ranges = stage.joules or 0.0, []
    for phase_name, phase in stage.phases.items():
        interval = phase.interval
        known = "" if interval is None else scaled_range(*interval, "J")
        if phase.joules is None:
            ranges.append(f"{words(phase_name)} {known or 'unknown'}")
            continue
        rest -= phase.joules
        text = f"{words(name)}, {words(phase_name)}: {_energy(phase.joules, stage.joules)}" + (known and f"; 95 %: {known}")
        low, high = interval or (None, None)
        parts.append(Part(words(phase_name), phase.joules, phase_colour(phase_name), text, low, high, estimated))
    if ranges:
        text = f"{words(name)}, {_UNSEPARATED}: {', '.join(ranges)}"
        parts.append(Part(_UNSEPARATED, max(0.0, rest), "grey", text, estimated=estimated))
    return Bar(words(name), _energy(stage.joules, total), parts)


def _energy(joules: float | None, whole: float | None) -> str:
    if joules is None:
        return "unknown"
    share = f", {percent(joules / whole)}" if whole and joules >= 0 else ""
    return f"{scaled(joules, 'J')}{share}"


def power_areas(record: RunRecord) -> Element:
    """Draw the power of the devices over time, on top of each other, with the starts of epochs."""
    estimated = {device.id for device in record.devices if device.provenance == "estimated"}
    layers = _layers(record)
    series = [
        Series(label, series_colour(i), _at_middles(watts, _slice_s(record)), bool(ids) and ids <= estimated)
        for i, (label, ids, watts) in enumerate(layers)
    ]
    return areas("Power", series, across=_time(record), name="power", unit="W", hint=_MARKED, empty=_NO_POWER)


_MARKED: Final = "by device; ticks above: starts of training epochs; grey hatching: no readings"


def energy_line(record: RunRecord) -> Element:
    """Draw the energy from the start of the run on; where a counter was not read, its energy is spread evenly."""
    points = energy_points(record)
    series = [Series("energy so far", "blue", points, record.total.provenance == "estimated")] if points else []
    return lines("Cumulative energy", series, across=_time(record), name="energy", unit="J", empty=_NO_POWER)


def energy_points(record: RunRecord) -> list[Point]:
    """Return the energy in J from the start of a run on, over its time in s; none if nothing of it is known."""
    slice_s = _slice_s(record)
    spent = [_with_gaps_filled(record, watts, ids, slice_s) for _, ids, watts in _layers(record)]
    sums = accumulate(sum(column) for column in zip(*spent, strict=True))
    ends = [(i + 1) * slice_s for i in range(max(map(len, spent), default=0))]
    if not ends:
        return _from_epochs(record)
    ends[-1] = max(ends[-1] - slice_s, min(ends[-1], record.total.seconds))  # the last slice may be shorter
    return [Point(0.0, 0.0), *map(Point, ends, sums)]


def _time(record: RunRecord) -> Across:
    marks = [epoch.started_s for epoch in record.epochs if epoch.stage == "train" and epoch.started_s is not None]
    return Across("time", time=True, end=record.total.seconds, marks=marks if len(marks) <= _MOST_MARKS else ())


_MOST_MARKS = 100


def _slice_s(record: RunRecord) -> float:
    return max((series.slice_s for series in record.power.values()), default=0.0)


def _layers(record: RunRecord) -> list[tuple[str, set[str], list[float | None]]]:
    """Return names, ids and powers in equal slices from the start of the run on: of a device, or of the many small ones."""
    slice_s = _slice_s(record)
    if not slice_s:
        return []
    devices: dict[str, DeviceRecord] = {device.id: device for device in record.devices}
    shifted: dict[str, list[float | None]] = {
        name: [*[None] * round(series.start_s / slice_s), *series.mean]
        for name, series in record.power.items()
        if name in devices and series.slice_s == slice_s
    }
    length = max(map(len, shifted.values()), default=0)
    watts: dict[str, list[float | None]] = {name: [*found, *[None] * (length - len(found))] for name, found in shifted.items()}
    order = sorted(watts, key=lambda name: -(devices[name].joules or 0.0))
    alone, rest = (order, []) if len(order) <= _MOST_LAYERS else (order[: _MOST_LAYERS - 1], order[_MOST_LAYERS - 1 :])
    layers = [(f"{devices[name].name} ({name})", {name}, watts[name]) for name in alone]
    if rest:
        sums = [
            None if None in column else sum(map(float, column)) for column in zip(*map(watts.__getitem__, rest), strict=True)
        ]
        layers.append((f"{len(rest)} more devices", set(rest), sums))
    return layers


def _at_middles(values: Sequence[float | None], slice_s: float) -> list[Point]:
    if len(values) == 1:  # one point alone would have no area
        return [Point(0.0, values[0]), Point(slice_s, values[0])]
    return [Point((i + 0.5) * slice_s, value) for i, value in enumerate(values)]


def _with_gaps_filled(record: RunRecord, watts: Sequence[float | None], ids: set[str], slice_s: float) -> list[float]:
    """Return joules of each slice, whose sum is that of the devices.

    What a counter went on counting while it was not read is spread over those slices; else all of them are scaled, because some
    were known or lasted for a part of their time only.
    """
    known = [None if value is None else value * slice_s for value in watts]
    total = sum(device.joules or 0.0 for device in record.devices if device.id in ids)
    counted = sum(value for value in known if value is not None)
    gaps = known.count(None)
    if gaps and total > counted:
        return [(total - counted) / gaps if value is None else value for value in known]
    scale = total / counted if total and counted else 1.0
    return [scale * (value or 0.0) for value in known]


def _from_epochs(record: RunRecord) -> list[Point]:
    """Return the energy at the ends of epochs, for a record without power over time."""
    known = [
        (epoch.started_s + epoch.seconds, epoch.joules)
        for epoch in record.epochs
        if epoch.started_s is not None and epoch.joules
    ]
    known.sort()
    return [Point(time, joules) for (time, _), joules in zip(known, accumulate(joules for _, joules in known), strict=True)]


def epoch_lines(record: RunRecord) -> Element:
    """Draw the energy of a sample in each epoch, by stage, with its interval."""
    series = []
    for name, stage in stages_of(record):
        points = [_per_sample(epoch, stage) for epoch in record.epochs if epoch.stage == name and epoch.samples]
        if points:
            series.append(Series(words(name), stage_colour(name), points, stage.provenance == "estimated"))
    hint = "compilation included; bands: 95 % intervals, of which the devices' part is the same in all epochs"
    return lines("Energy of a sample by epoch", series, name="energy", unit="J/sample", hint=hint, empty=_NO_EPOCHS)


def _per_sample(epoch: EpochRecord, stage: StageRecord) -> Point:
    where = epoch.index + (epoch.epochs - 1) / 2
    if epoch.joules is None or not epoch.samples:
        return Point(where, None)
    per_sample = epoch.joules / epoch.samples
    if stage.relative_uncertainty is None:
        return Point(where, per_sample)
    half = hypot(stage.relative_uncertainty * epoch.joules, epoch.sampling_joules or 0.0) / epoch.samples
    return Point(where, per_sample, max(0.0, per_sample - half), per_sample + half)


def metric_lines(record: RunRecord) -> Element | None:
    """Draw the metric of the run by epoch, or None if it has none."""
    name = monitored([record])
    if name is None:
        return None
    points = [
        Point(epoch.index + (epoch.epochs - 1) / 2, epoch.metrics[name]) for epoch in record.epochs if name in epoch.metrics
    ]
    return lines(
        f"{name} by epoch", [Series(name, "purple", points)], across=EPOCHS, name=name, unit="", empty="", from_zero=False
    )


_LOWER: Final = ("loss", "error", "err", "perplexity", "ppl", "mse", "mae", "rmse", "wer", "cer", "fid", "nll", "bpc")
_HIGHER: Final = (
    "acc",
    "accuracy",
    "f1",
    "auc",
    "auroc",
    "bleu",
    "rouge",
    "precision",
    "recall",
    "map",
    "iou",
    "dice",
    "r2",
    "psnr",
)


def monitored(records: Sequence[RunRecord]) -> str | None:
    """Return the metric by which runs are compared: that of early stopping, or else one of validation that most runs have."""
    chosen = [record.early_stopping.monitor for record in records if record.early_stopping is not None]
    counts: dict[str, int] = {}
    for record in records:
        for name in {name for epoch in record.epochs for name in epoch.metrics}:
            counts[name] = counts.get(name, 0) + 1
    for name in chosen:
        if name in counts:
            return name
    return max(sorted(counts), key=lambda name: (counts[name], *_worth(name)), default=None)


def _worth(name: str) -> tuple[bool, bool]:
    """Return what makes a metric worth showing: that it is of validation, and says more than the loss."""
    validation = any(part in {"val", "valid", "validation", "eval", "test"} for part in _parts(name))
    return validation, more_is_better(name) is True


def _parts(name: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()


def more_is_better(name: str) -> bool | None:
    """Return whether more of a metric is better, by its name; None if the name does not say."""
    for part in reversed(_parts(name)):
        if part.endswith(_LOWER):
            return False
        if part.endswith(_HIGHER) or part.startswith(("acc", "f1", "auc")):
            return True
    return None


def best_value(record: RunRecord, name: str) -> float | None:
    """Return the best value of a metric in a run; the last one if it is not known which is better."""
    values = [epoch.metrics[name] for epoch in record.epochs if isfinite(epoch.metrics.get(name, float("nan")))]
    if not values:
        return None
    better = direction([record], name)
    return values[-1] if better is None else max(values) if better else min(values)


def direction(records: Sequence[RunRecord], name: str) -> bool | None:
    """Return whether more of a metric is better, as early stopping says, or by its name."""
    for record in records:
        if record.early_stopping is not None and record.early_stopping.monitor == name:
            return record.early_stopping.mode == "max"
    return more_is_better(name)


def metric_against_energy(runs: Sequence[tuple[str, RunRecord]]) -> Element:
    """Draw the best value of a metric against the energy of each run, with the Pareto front."""
    records = [record for _, record in runs]
    name = monitored(records)
    title = "Energy against the metric" if name is None else f"Energy against {name}"
    spots = []
    for i, (label, record) in enumerate(runs):
        joules, value = record.total.joules, None if name is None else best_value(record, name)
        if name is None or joules is None or value is None:
            continue
        half = (record.total.relative_uncertainty or 0.0) * joules
        text = f"{label}: {scaled(joules / JOULES_PER_WH, 'Wh')}, {name} {value:.4g}"
        ends = ((joules - half) / JOULES_PER_WH, (joules + half) / JOULES_PER_WH)
        spots.append(Spot(label, joules / JOULES_PER_WH, value, series_colour(i), text, *ends))
    better = None if name is None else direction(records, name)
    hint = {
        True: "filled: Pareto front, where no other run has more of it for less energy",
        False: "filled: Pareto front, where no other run has less of it for less energy",
        None: "",
    }[better]
    empty = "No run has a metric in its epochs: records of earlier releases have none, nor do runs that logged none."
    return scatter(title, spots, x_name="energy", x_unit="Wh", y_name=name or "", more_is_better=better, hint=hint, empty=empty)
