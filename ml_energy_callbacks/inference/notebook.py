"""Profiles and comparisons in notebooks: as HTML, as data frames, and as pictures."""

from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree.ElementTree import Element

import msgspec

from ml_energy_callbacks.inference.results import Comparison, Cost, Interval, ModelCost, Profile
from ml_energy_callbacks.inference.table import comparison_lines, front_of, profile_lines, rank_of, state_of
from ml_energy_callbacks.report.drawing import Bar, Part, Spot, bars, node, scatter, series_colour
from ml_energy_callbacks.report.notebook import Picture, fragment, frame
from ml_energy_callbacks.report.page.tables import amounts, table, texts
from ml_energy_callbacks.report.quantities import UNKNOWN, scaled
from ml_energy_callbacks.safe_text import in_texts, printable


def findings_html(findings: Profile | Comparison) -> str:
    """Return a profile or a comparison as a notebook shows it: the finding, pictures, table, and notes."""
    shown = in_texts(findings, printable)
    first, *notes = (profile_lines(shown) if isinstance(shown, Profile) else comparison_lines(shown)) or [""]
    folded = node("details", node("summary", "Notes"), node("ul", (node("li", line) for line in notes)))
    headline = [node("p", node("strong", first))] if first else []
    return fragment([*headline, *_pictures(shown), _table(shown), *([folded] if notes else [])])


def plot_findings(findings: Profile | Comparison) -> Picture:
    """Return the pictures of a profile or a comparison."""
    return Picture("predictions", _pictures(in_texts(findings, printable)))


def findings_frame(findings: Profile | Comparison) -> Any:  # noqa: ANN401 - of pandas or polars
    """Return the batch sizes or models as rows of a data frame."""
    return frame([_flat(cost) for _, cost in _costs(findings)])


def _flat(cost: Cost) -> dict[str, object]:
    """Return a result with its intervals and latencies as columns of their own."""
    row: dict[str, object] = {}
    for name, value in reversed(msgspec.structs.asdict(cost).items()):  # what it is comes before its figures
        if isinstance(value, msgspec.Struct):
            row |= {f"{name}_{part}": each for part, each in msgspec.structs.asdict(value).items()}
        else:
            row[name] = value
    return row


def _costs(findings: Profile | Comparison) -> Iterator[tuple[str, Cost]]:
    if isinstance(findings, Profile):
        return ((str(size.batch_size), size) for size in findings.sizes)
    return ((model.name, model) for model in findings.models)


def _pictures(findings: Profile | Comparison) -> list[Element]:
    estimated = findings.provenance == "estimated"
    what = "batch size" if isinstance(findings, Profile) else "model"
    found = []
    for name, cost in _costs(findings):
        if (joules := cost.joules_per_sample) is not None:
            half = joules.half_width
            low, high = (None, None) if half is None else (joules.mean - half, joules.mean + half)
            text = _with_interval(joules)
            found.append(Bar(name, text, [Part("J/sample", joules.mean, "blue", f"{name}: {text}", low, high, estimated)]))
    empty = "No device could be read, so that the energy is unknown."
    hint = "lines: 95 % intervals of the repeats"
    figures = [bars(f"Energy of a sample by {what}", found, unit="J/sample", hint=hint, empty=empty)]
    return figures if isinstance(findings, Profile) else [_against_accuracy(findings.models), *figures]


def _against_accuracy(models: Sequence[ModelCost]) -> Element:
    spots = []
    for i, model in enumerate(models):
        joules = model.joules_per_sample
        if joules is None or model.accuracy is None:
            continue
        half = joules.half_width or 0.0
        text = f"{model.name}: {_with_interval(joules)}, accuracy {model.accuracy:.4g}"
        ends = (joules.mean - half, joules.mean + half)
        spots.append(Spot(model.name, joules.mean, model.accuracy, series_colour(i), text, *ends))
    return scatter(
        "Energy against accuracy",
        spots,
        x_name="energy",
        x_unit="J/sample",
        y_name="accuracy",
        more_is_better=True,
        hint="filled: no other model is more accurate for less energy, by the means",
        empty="No model has both known energy and known accuracy.",
    )


def _with_interval(found: Interval) -> str:
    half = "" if found.half_width is None else f" ±{scaled(found.half_width, 'J', 2)}"
    return f"{scaled(found.mean, 'J/sample')}{half}"


def _mean(found: Interval | None) -> float | None:
    return None if found is None else found.mean


def _table(findings: Profile | Comparison) -> Element:
    named = [*_costs(findings)]
    costs = [cost for _, cost in named]
    if isinstance(findings, Profile):
        what, marks = "Batch size", [rank_of(findings, size.batch_size) for size in findings.sizes]
    else:
        what, marks = "Model", [front_of(model) for model in findings.models]
    columns = [
        texts(what, [name for name, _ in named]),
        amounts("Energy of a sample", [_mean(cost.joules_per_sample) for cost in costs], "J"),
        amounts("±", [None if each is None else each.half_width for each in (cost.joules_per_sample for cost in costs)], "J"),
        amounts("Above idle", [_mean(cost.joules_per_sample_above_idle) for cost in costs], "J"),
        amounts("Throughput", [_mean(cost.samples_per_second) for cost in costs], "samples/s"),
        amounts("p50", [None if cost.latency is None else cost.latency.p50_s for cost in costs], "s"),
        amounts("p95", [None if cost.latency is None else cost.latency.p95_s for cost in costs], "s"),
        texts("State", [state_of(cost, mark) for cost, mark in zip(costs, marks, strict=True)]),
    ]
    if isinstance(findings, Comparison):
        accuracies = [UNKNOWN if model.accuracy is None else f"{model.accuracy:.4g}" for model in findings.models]
        columns.insert(1, texts("Accuracy", accuracies, numeric=True))
    return table(f"Energy of a prediction by {what.lower()}", columns)
