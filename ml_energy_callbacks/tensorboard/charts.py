"""Charts of the tab Energy that compare runs, or show one while it goes on; pure. The others are those of every page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from xml.etree.ElementTree import Element

from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.record.schema import EpochRecord, RunRecord
from ml_energy_callbacks.report.drawing import (
    Across,
    Bar,
    Part,
    Point,
    Series,
    areas,
    bars,
    lines,
    node,
    phase_colour,
    stage_colour,
)
from ml_energy_callbacks.report.drawing.frame import WIDTH, drawing, filled
from ml_energy_callbacks.report.pictures import NO_ENERGY, energy_points, words
from ml_energy_callbacks.report.quantities import percent, scaled

_NONE_CHOSEN: Final = "No run is chosen: tick some in the table."
_UNSEPARATED: Final = "not separated"
_TRAINING: Final = {"compute": "compute", "step": "step", "data_wait": "data wait", "compile": "compilation", "other": "other"}
_ROUNDING: Final = 1e-3
_BAR_HEIGHT = 70.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A run that is drawn: its name, its record, its colour, and whether it still runs."""

    name: str
    record: RunRecord
    colour: str
    runs: bool = False


def cumulative_energy(runs: Sequence[Drawn]) -> Element:
    """Draw the energy of runs over time, and what those that still run are expected to come to, with the 95 % interval."""
    series = []
    for run in runs:
        points = energy_points(run.record)
        if points:
            estimated = run.record.total.provenance == "estimated"
            series.append(Series(run.name, run.colour, points, estimated))
            series += _expected(run)
    hint = "dashed: estimated, or the forecast with its 95 % interval"
    empty = NO_ENERGY if runs else _NONE_CHOSEN
    return lines("Cumulative energy", series, across=Across("time", time=True), name="energy", unit="J", hint=hint, empty=empty)


def _expected(run: Drawn) -> Iterator[Series]:
    forecast, total = run.record.forecast, run.record.total
    if forecast is None or not run.runs or total.joules is None:
        return
    wall = datetime.fromisoformat(forecast.ends_at) - datetime.fromisoformat(run.record.run.started_at)
    end = max(wall.total_seconds(), total.seconds)
    low, middle, high = (kwh * JOULES_PER_KWH for kwh in (forecast.kwh_low, forecast.kwh, forecast.kwh_high))
    now = Point(total.seconds, total.joules, total.joules, total.joules)
    yield Series(f"{run.name}, forecast", run.colour, [now, Point(end, middle, low, high)], estimated=True)


def sample_energy(runs: Sequence[Drawn]) -> Element:
    """Draw the energy of a training sample by epoch, a line for each run."""
    series = [
        Series(run.name, run.colour, points, run.record.total.provenance == "estimated")
        for run in runs
        if (points := [*_per_sample(run.record)])
    ]
    empty = "No chosen run has an epoch of training with known energy and samples." if runs else _NONE_CHOSEN
    hint = "compilation included; dashed: estimated"
    return lines("Energy of a training sample by epoch", series, name="energy", unit="J/sample", hint=hint, empty=empty)


def _per_sample(record: RunRecord) -> Iterator[Point]:
    for epoch in record.epochs:
        if epoch.stage == "train" and epoch.joules is not None and epoch.samples:
            yield Point(_place(epoch), epoch.joules / epoch.samples)


def _place(epoch: EpochRecord) -> float:
    return epoch.index + (epoch.epochs - 1) / 2


def phases_by_epoch(record: RunRecord) -> Element:
    """Draw what the energy of each training epoch was spent on."""
    title, hint = "Training by epoch: what the energy was spent on", "compilation and waiting buy no training"
    empty = "This run has no training epoch with known energy."
    epochs = [epoch for epoch in record.epochs if epoch.stage == "train"]
    if not any(epoch.phases for epoch in epochs):
        if any(epoch.joules for epoch in epochs):
            empty = "The phases of the epochs are not known: they cannot be separated yet, or the log is of an earlier release."
        return bars(title, [], unit="J", empty=empty)
    known = [phase for phase in _TRAINING if any(phase in epoch.phases for epoch in epochs)]
    estimated = record.stages["train"].provenance == "estimated" if "train" in record.stages else False
    layers = {_TRAINING[phase]: [_part(epoch, phase) for epoch in epochs] for phase in known}
    colours = {_TRAINING[phase]: phase_colour(phase) for phase in known}
    rest = [_rest(epoch) for epoch in epochs]
    if any(rest):
        layers[_UNSEPARATED], colours[_UNSEPARATED] = rest, "grey"
    if len(epochs) == 1:
        parts = [
            Part(label, values[0] or 0.0, colours[label], f"{label}: {scaled(values[0], 'J')}", estimated=estimated)
            for label, values in layers.items()
        ]
        return bars(title, [Bar("epoch 0", scaled(epochs[0].joules, "J"), parts)], unit="J", hint=hint, empty=empty)
    series = [
        Series(
            label,
            colours[label],
            [Point(_place(epoch), value) for epoch, value in zip(epochs, values, strict=True)],
            estimated,
        )
        for label, values in layers.items()
    ]
    return areas(title, series, name="energy", unit="J", hint=hint, empty=empty)


def _part(epoch: EpochRecord, phase: str) -> float | None:
    return None if epoch.joules is None else max(0.0, epoch.phases.get(phase, 0.0))


def _rest(epoch: EpochRecord) -> float | None:
    """Return the energy of an epoch that no phase has; 0 where it is only their rounding."""
    if epoch.joules is None:
        return None
    rest = epoch.joules - sum(epoch.phases.values())
    return rest if rest > _ROUNDING * epoch.joules else 0.0


def where_it_went(record: RunRecord) -> Element | str:
    """Return a small bar of the phases of training, and of the other stages; a dash where the energy is unknown."""
    whole = record.total.joules
    parts = [part for part in _shares(record) if part[1] > 0] if whole else []
    if not whole or not parts:
        return "-"
    summary = ", ".join(f"{label} {percent(joules / whole)}" for label, joules, _ in parts)
    scale = WIDTH / max(whole, sum(joules for _, joules, _ in parts))
    contents: list[Element] = []
    start = 0.0
    for label, joules, colour in parts:
        shape = node("rect", x=start, y=0, width=joules * scale, height=_BAR_HEIGHT)
        for element in filled(shape, colour, estimated=record.total.provenance == "estimated"):
            element.append(node("title", f"{label}: {scaled(joules, 'J')}, {percent(joules / whole)}"))
            contents.append(element)
        start += joules * scale
    return drawing(_BAR_HEIGHT, summary, contents)


def _shares(record: RunRecord) -> Iterator[tuple[str, float, str]]:
    """Yield names, joules and colours of what a run was spent on."""
    counted = 0.0
    train = record.stages.get("train")
    if train is not None and train.joules:
        for phase, label in _TRAINING.items():
            joules = train.phases[phase].joules if phase in train.phases else None
            if joules is not None and phase != "other":
                yield label, joules, phase_colour(phase)
                counted += joules
        if train.joules > counted:
            separated = counted > 0
            yield ("rest of training" if separated else "training"), train.joules - counted, "grey" if separated else "blue"
        counted = max(counted, train.joules)
    for name, stage in record.stages.items():
        if name not in {"train", "other"} and stage.joules:
            yield words(name), stage.joules, stage_colour(name)
            counted += stage.joules
    yield "other", max(0.0, (record.total.joules or 0.0) - counted), "line"


LEGEND: Final = [
    ("compute", phase_colour("compute")),
    ("data wait", phase_colour("data_wait")),
    ("compilation", phase_colour("compile")),
    ("rest of training", "grey"),
    ("validate", stage_colour("validate")),
]
