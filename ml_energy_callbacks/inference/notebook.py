"""Profiles, comparisons and profiles of generation in notebooks: as HTML, as data frames, and as pictures."""

from collections.abc import Iterator, Sequence
from typing import Any, Final
from xml.etree.ElementTree import Element

import msgspec

from ml_energy_callbacks.inference.generation_results import GenerationCost, GenerationProfile, Law
from ml_energy_callbacks.inference.generation_table import LAW, generation_lines, law_rows, range_of, value_of
from ml_energy_callbacks.inference.results import Comparison, Cost, Interval, ModelCost, Profile
from ml_energy_callbacks.inference.table import comparison_lines, front_of, profile_lines, rank_of, state_of
from ml_energy_callbacks.record.schema import LatencyRecord
from ml_energy_callbacks.report.drawing import (
    Across,
    Bar,
    Part,
    Point,
    Series,
    Spot,
    bars,
    lines,
    node,
    scatter,
    series_colour,
)
from ml_energy_callbacks.report.notebook import Picture, fragment, frame
from ml_energy_callbacks.report.page.tables import amounts, table, texts
from ml_energy_callbacks.report.quantities import UNKNOWN, scaled
from ml_energy_callbacks.safe_text import in_texts, printable

_NO_ENERGY: Final = "No device could be read, so that the energy is unknown."

_Found = Profile | Comparison | GenerationProfile


def findings_html(findings: _Found) -> str:
    """Return a result as a notebook shows it: the finding, pictures, tables, and notes."""
    shown = in_texts(findings, printable)
    first, *notes = _lines(shown) or [""]
    folded = node("details", node("summary", "Notes"), node("ul", (node("li", line) for line in notes)))
    headline = [node("p", node("strong", first))] if first else []
    return fragment([*headline, *_pictures(shown), *_tables(shown), *([folded] if notes else [])])


def plot_findings(findings: _Found) -> Picture:
    """Return the pictures of a result."""
    return Picture("predictions", _pictures(in_texts(findings, printable)))


def findings_frame(findings: _Found) -> Any:  # noqa: ANN401 - of pandas or polars
    """Return the batch sizes, models or lengths as rows of a data frame."""
    costs = findings.cases if isinstance(findings, GenerationProfile) else [cost for _, cost in _costs(findings)]
    return frame([_flat(cost) for cost in costs])


def _lines(findings: _Found) -> list[str]:
    if isinstance(findings, GenerationProfile):
        return generation_lines(findings)
    return profile_lines(findings) if isinstance(findings, Profile) else comparison_lines(findings)


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


def _pictures(findings: _Found) -> list[Element]:
    if isinstance(findings, GenerationProfile):
        return [_by_lengths(findings, law.batch_size) for law in findings.laws]
    estimated = findings.provenance == "estimated"
    what = "batch size" if isinstance(findings, Profile) else "model"
    found = []
    for name, cost in _costs(findings):
        if (joules := cost.joules_per_sample) is not None:
            half = joules.half_width
            low, high = (None, None) if half is None else (joules.mean - half, joules.mean + half)
            text = _with_interval(joules)
            found.append(Bar(name, text, [Part("J/sample", joules.mean, "blue", f"{name}: {text}", low, high, estimated)]))
    hint = "lines: 95 % intervals of the repeats"
    figures = [bars(f"Energy of a sample by {what}", found, unit="J/sample", hint=hint, empty=_NO_ENERGY)]
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


def _by_lengths(findings: GenerationProfile, size: int) -> Element:
    """Return the energy of a response by its new tokens at a batch size, a line for each prompt."""
    series = []
    cases = [case for case in findings.cases if case.batch_size == size and not case.held_back]
    for i, prompt in enumerate(dict.fromkeys(case.prompt_tokens for case in cases)):
        points = [_point(case) for case in cases if case.prompt_tokens == prompt]
        series.append(Series(f"prompt of {prompt}", series_colour(i), points, estimated=findings.provenance == "estimated"))
    return lines(
        f"Energy of a response at batch size {size}",
        series,
        across=Across("new tokens"),
        name="energy",
        unit="J",
        hint="bands: 95 % intervals of the repeats",
        empty=_NO_ENERGY,
    )


def _point(case: GenerationCost) -> Point:
    joules = case.joules_per_sample
    if joules is None:
        return Point(case.new_tokens, None)
    half = joules.half_width
    return Point(case.new_tokens, joules.mean, *((None, None) if half is None else (joules.mean - half, joules.mean + half)))


def _with_interval(found: Interval) -> str:
    half = "" if found.half_width is None else f" ±{scaled(found.half_width, 'J', 2)}"
    return f"{scaled(found.mean, 'J/sample')}{half}"


def _mean(found: Interval | None) -> float | None:
    return None if found is None else found.mean


def _tables(findings: _Found) -> list[Element]:
    if isinstance(findings, GenerationProfile):
        return [_lengths_table(findings), *([_law_table(findings.laws)] if any(law.a for law in findings.laws) else [])]
    return [_table(findings)]


def _lengths_table(findings: GenerationProfile) -> Element:
    cases = findings.cases
    return table(
        "Energy of generated text; 1 new token is the prefill",
        [
            texts("Batch size", [str(case.batch_size) for case in cases]),
            texts("Prompt", [str(case.prompt_tokens) for case in cases], numeric=True),
            texts("New tokens", [str(case.new_tokens) for case in cases], numeric=True),
            *(
                each
                for what, found in (
                    ("response", [case.joules_per_sample for case in cases]),
                    ("prompt token", [case.joules_per_prompt_token for case in cases]),
                    ("new token", [case.joules_per_new_token for case in cases]),
                )
                for each in (
                    amounts(f"Energy of a {what}", [_mean(joules) for joules in found], "J"),
                    amounts("±", [None if joules is None else joules.half_width for joules in found], "J"),
                )
            ),
            amounts("Throughput", [_mean(case.new_tokens_per_second) for case in cases], "tokens/s"),
            amounts("First token, p50", [_median(case.time_to_first_token) for case in cases], "s"),
            amounts("Next token, p50", [_median(case.time_per_new_token) for case in cases], "s"),
            texts("State", [state_of(case, "held back" if case.held_back else "") for case in cases]),
        ],
    )


def _law_table(laws: Sequence[Law]) -> Element:
    rows = law_rows(laws)
    return table(
        LAW,
        [
            texts("Batch size", [str(size) for size, *_ in rows]),
            texts("Coefficient", [f"{name}, {meaning}" for _, name, meaning, _ in rows]),
            texts("Energy", [value_of(each) for *_, each in rows], numeric=True),
            texts("95 % interval", [range_of(each) for *_, each in rows], numeric=True),
        ],
    )


def _median(found: LatencyRecord | None) -> float | None:
    return None if found is None else found.p50_s


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
