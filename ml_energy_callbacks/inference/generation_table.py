"""A profile of generation as tables for a terminal."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from rich.console import Group
from rich.text import Text

from ml_energy_callbacks.inference.generation_results import Coefficient, GenerationCost, GenerationProfile, Law
from ml_energy_callbacks.inference.results import Interval
from ml_energy_callbacks.inference.table import common_notes, precise_percent, signed_percent, state_of
from ml_energy_callbacks.record.schema import LatencyRecord
from ml_energy_callbacks.report.fitted_table import Column, FittedTable
from ml_energy_callbacks.report.quantities import UNKNOWN, column, percent, quantity, scaled, scaled_range
from ml_energy_callbacks.safe_text import in_texts, printable

LAW = "Energy of a response: J = a + b·prompt + c·new + d·new·(prompt + new/2)"

_MEANINGS = {
    "a": "per response",
    "b": "per prompt token",
    "c": "per new token",
    "d": "per new token and token of its context",
}
"""What the energy of a coefficient is that of."""


def render_generation(profile: GenerationProfile) -> Group:
    """Return the tables of lengths and laws, followed by notes."""
    profile = in_texts(profile, printable)
    tables = [_energy_table(profile), _speed_table(profile)]
    if any(law.a is not None for law in profile.laws):
        tables.append(_law_table(profile.laws))
    if any(law.held_back for law in profile.laws):
        tables.append(_error_table(profile.laws))
    return Group(*tables, *(Text(line) for line in generation_lines(profile)))


def generation_lines(profile: GenerationProfile) -> list[str]:
    """Return what a profile of generation found as sentences: the errors of the laws first, then notes."""
    errors = [
        f"Batch size {law.batch_size}: the law differs from lengths that were held back by up to {precise_percent(law.error)}."
        for law in profile.laws
        if law.error is not None
    ]
    reasons = [f"Batch size {law.batch_size}: {law.reason}" for law in profile.laws if law.reason is not None]
    return [*errors, *reasons, *_case_lines(profile.cases), *common_notes(profile)]


def _case_lines(cases: Sequence[GenerationCost]) -> Iterator[str]:
    undecided = sum(case.state == "undecided" for case in cases)
    if undecided:
        yield f"Undecided: {undecided} of {len(cases)} cases; raise --seconds (max_seconds) or --width (relative_width)."
    for case in cases:
        if case.note is not None and case.state != "undecided":
            yield f"Batch size {case.batch_size}, {case.prompt_tokens}+{case.new_tokens} tokens: {case.note}"


def _energy_table(profile: GenerationProfile) -> FittedTable:
    cases = profile.cases
    return FittedTable(
        [
            *_lengths(profile),
            *_energies("response\n", [case.joules_per_sample for case in cases]),
            *_energies("prompt\ntoken ", [case.joules_per_prompt_token for case in cases], more=1),
            *_energies("new\ntoken ", [case.joules_per_new_token for case in cases]),
            Column("repeats", [str(case.repeats) for case in cases], rank=5),
            Column("", [state_of(case, "held back" if case.held_back else "") for case in cases], rank=6, left=True),
        ],
        sections=_sections(profile),
        title="Energy of generated text; 1 new token is the prefill",
    )


def _speed_table(profile: GenerationProfile) -> FittedTable:
    cases = profile.cases
    return FittedTable(
        [
            *_lengths(profile),
            Column("new\ntokens/s", [quantity(_mean(case.new_tokens_per_second)) for case in cases]),
            *_times("first token", [case.time_to_first_token for case in cases]),
            *_times("next token", [case.time_per_new_token for case in cases]),
        ],
        sections=_sections(profile),
        title="Throughput and latency of a batch",
    )


def _law_table(laws: Sequence[Law]) -> FittedTable:
    rows = law_rows(laws)
    return FittedTable(
        [
            Column("batch", [str(size) for size, *_ in rows]),
            Column("", [name for _, name, *_ in rows], left=True),
            Column("energy", [value_of(each) for *_, each in rows]),
            Column("95 % interval", [range_of(each) for *_, each in rows], rank=1),
            Column("", [meaning for *_, meaning, _ in rows], rank=2, left=True),
        ],
        sections=range(len(_MEANINGS), len(rows), len(_MEANINGS)),
        title=LAW,
    )


def law_rows(laws: Sequence[Law]) -> list[tuple[int, str, str, Coefficient]]:
    """Return the batch size, name, meaning and value of each coefficient that is known."""
    return [
        (law.batch_size, name, meaning, coefficient)
        for law in laws
        for name, meaning in _MEANINGS.items()
        if (coefficient := getattr(law, name)) is not None
    ]


def _error_table(laws: Sequence[Law]) -> FittedTable:
    rows = [(law.batch_size, each) for law in laws for each in law.held_back]
    measured = [each.joules.mean for _, each in rows]
    unit, energies = column([*measured, *(each.predicted_joules for _, each in rows)], "J")
    return FittedTable(
        [
            Column("batch", [str(size) for size, _ in rows]),
            Column("prompt", [str(each.prompt_tokens) for _, each in rows]),
            Column("new", [str(each.new_tokens) for _, each in rows]),
            Column(f"measured\n{unit}", energies[: len(rows)]),
            Column("±", [_share(each.joules) for _, each in rows]),
            Column(f"law\n{unit}", energies[len(rows) :]),
            Column("error", [signed_percent(each.relative_error) for _, each in rows]),
        ],
        title="Law at lengths that were held back",
    )


def _lengths(profile: GenerationProfile) -> list[Column]:
    return [
        Column("batch", [str(case.batch_size) for case in profile.cases]),
        Column("prompt", [str(case.prompt_tokens) for case in profile.cases]),
        Column("new", [str(case.new_tokens) for case in profile.cases]),
    ]


def _sections(profile: GenerationProfile) -> list[int]:
    """Return the rows after which the batch size changes."""
    sizes = [case.batch_size for case in profile.cases]
    return [row for row, (size, following) in enumerate(pairwise(sizes), 1) if size != following]


def _energies(head: str, found: Sequence[Interval | None], more: int = 0) -> Iterator[Column]:
    """Yield energies and their intervals; one that is not known to be above 0 is its upper end, marked with <."""
    unit, texts = column([None if each is None else shown_joules(each) for each in found], "J")
    marked = [text if each is None or is_resolved(each) else f"<{text}" for each, text in zip(found, texts, strict=True)]
    yield Column(head + unit, marked)
    yield Column("±", [_share(each) for each in found], rank=3 + more)


def is_resolved(found: Interval) -> bool:
    """Return whether the energy is known to be above 0."""
    return found.half_width is None or found.mean > found.half_width


def shown_joules(found: Interval) -> float:
    """Return the mean in J, or the upper end of the interval where the energy is not known to be above 0."""
    return found.mean if is_resolved(found) else max(0.0, found.mean + (found.half_width or 0.0))


def value_of(found: Coefficient) -> str:
    """Return the value of a coefficient, or its upper end where it is not known to be above 0."""
    if found.low_joules == 0 and found.high_joules is not None:
        return f"<{scaled(found.high_joules, 'J')}"
    return scaled(found.joules, "J")


def range_of(found: Coefficient) -> str:
    """Return the interval of a coefficient."""
    if found.low_joules is None or found.high_joules is None:
        return UNKNOWN
    return scaled_range(found.low_joules, found.high_joules, "J")


def _share(found: Interval | None) -> str:
    if found is None or found.half_width is None or not is_resolved(found):
        return UNKNOWN
    return percent(found.half_width / found.mean)


def _mean(found: Interval | None) -> float | None:
    return None if found is None else found.mean


def _times(name: str, found: Sequence[LatencyRecord | None]) -> Iterator[Column]:
    p50, p95 = ([None if each is None else getattr(each, part) for each in found] for part in ("p50_s", "p95_s"))
    unit, texts = column([*p50, *p95], "s")
    yield Column(f"{name}\np50 {unit}", texts[: len(found)])
    yield Column(f"\np95 {unit}", texts[len(found) :], rank=1)
