"""What changed between two runs, for a terminal."""

from collections import Counter
from collections.abc import Iterator

from rich.console import Group
from rich.text import Text

from ml_energy_callbacks.report.diff import Change, Part, RunDiff
from ml_energy_callbacks.report.fitted_table import Column, FittedTable
from ml_energy_callbacks.report.quantities import UNKNOWN, at_least, column, percent, scaled
from ml_energy_callbacks.safe_text import in_texts, printable

_MARKS = {"undecided": " ?", "no difference": " ="}
_CAUSES = {"samples": "the number of samples", "time": "the time per sample", "power": "the power"}


def render_diff(diff: RunDiff) -> Group:
    """Return what changed in a sentence and a table, and what is not the same in both runs."""
    diff = in_texts(diff, printable)
    return Group(*map(Text, _head(diff)), _table(diff), *map(Text, (*_each(diff), *_notes(diff))))


def _head(diff: RunDiff) -> Iterator[str]:
    total = diff.total
    for label, name, joules in (("A", diff.a, total.a_joules), ("B", diff.b, total.b_joules)):
        energy = "energy unknown" if joules is None else at_least(scaled(joules, "J"), lower_bound=label in diff.lower_bounds)
        yield f"{label}  {energy}  {name}"
    yield _sentence(total)
    largest = max(_decided(diff), key=lambda found: abs(found[2].joules or 0.0), default=None)
    if largest is not None and total.difference is not None and total.difference.verdict in {"more", "less"}:
        part, cause, change = largest
        where = " ".join(filter(None, (part.stage, part.phase, part.part)))
        yield f"Largest cause: {_CAUSES[cause]} of {where}, {_signed(change.joules)} ({change.verdict})."


def _sentence(total: Part) -> str:
    """Return the verdict on the whole run."""
    found = total.difference
    if found is None or found.joules is None:
        return "The energy of a run is unknown."
    interval = f"{_signed(found.low_joules)} to {_signed(found.high_joules)}"
    if found.verdict in {"more", "less"}:
        share = f"{percent(abs(found.joules) / total.a_joules)} {found.verdict}" if total.a_joules else found.verdict
        return f"B used {share} energy than A: {_signed(found.joules)} ({interval})."
    return f"{found.verdict.capitalize()}: {_signed(found.joules)} ({interval})."


def _decided(diff: RunDiff) -> Iterator[tuple[Part, str, Change]]:
    """Yield the parts of changes that are more or less: of phases, and of stages whose phases are unknown.

    Those of sub-stages are included in the phases of their stages. Where all parts of the batches are known, they are in the
    place of their phase.
    """
    parts = [part for part in diff.parts if part.stage is not None and "/" not in part.stage]
    divided = {(part.stage, part.phase) for part in parts if part.part is not None}
    divided -= {(part.stage, part.phase) for part in parts if part.part is not None and part.time is None}
    parts = [part for part in parts if (part.part is not None) == ((part.stage, part.phase) in divided)]
    split = {part.stage for part in parts if part.phase is not None and part.time is not None}
    for part in parts:
        if part.phase is not None or part.stage not in split:
            for cause in _CAUSES:
                change: Change | None = getattr(part, cause)
                if change is not None and change.verdict in {"more", "less"}:
                    yield part, cause, change


def _signed(joules: float | None) -> str:
    return UNKNOWN if joules is None else f"{'+' if joules > 0 else ''}{scaled(joules, 'J')}"


def _table(diff: RunDiff) -> FittedTable:
    """Return the changes by stage and phase; all energies have one unit. The only phase of a stage is the stage."""
    phases = Counter(part.stage for part in diff.parts if part.phase is not None)
    shown = [part for part in diff.parts if part.phase is None or (part.difference is not None and phases[part.stage] > 1)]
    parts = [*shown, diff.total]
    kinds = ("difference", "samples", "time", "power")
    changes: list[list[Change | None]] = [[getattr(part, kind) for part in parts] for kind in kinds]
    halves = [[_half(change) for change in found] for found in changes]
    values = [[None if change is None else change.joules for change in found] for found in changes]
    before, after = [part.a_joules for part in parts], [part.b_joules for part in parts]
    unit, texts = column([*before, *after, *(value for found in (*values, *halves) for value in found)], "J")
    count = len(parts)
    cells = [texts[i * count : (i + 1) * count] for i in range(10)]
    names = [
        part.stage or "total" if part.phase is None else f"  {part.phase}" if part.part is None else f"    {part.part}"
        for part in parts
    ]
    columns = [
        Column("stage\n  phase", names, left=True),
        Column(f"A\n{unit}", cells[0], rank=7),
        Column(f"B\n{unit}", cells[1], rank=6),
    ]
    for i, (kind, found) in enumerate(zip(kinds, changes, strict=True)):
        signed = [_plus(text, change) for text, change in zip(cells[2 + i], found, strict=True)]
        rank = 2 if i else 0
        columns.append(Column(f"{kind}\n{unit}", signed, rank))
        columns.append(Column(f"\n±{unit}", cells[6 + i], 8 if i else 3))
        if not i:
            verdicts = [UNKNOWN if change is None else change.verdict for change in found]
            columns.append(Column("B used", verdicts, rank=1, left=True))
    return FittedTable(columns, sections=[len(shown)])


def _half(change: Change | None) -> float | None:
    """Return the larger half-width of the interval of a change, or half of an interval without a middle."""
    if change is None:
        return None
    if change.joules is None:
        return (change.high_joules - change.low_joules) / 2
    return max(change.joules - change.low_joules, change.high_joules - change.joules)


def _plus(text: str, change: Change | None) -> str:
    """Return a change with its sign, and a mark where it is neither more nor less."""
    if change is None or change.joules is None:
        return text
    sign = "+" if change.joules > 0 and not text.startswith("<") else ""
    return f"{sign}{text}{_MARKS.get(change.verdict, '  ')}"


def _each(diff: RunDiff) -> Iterator[str]:
    """Yield the energy of a sample and of a token in both runs; a sanity check is not about them."""
    for each in diff.each:
        if each.stage.startswith("sanity_check"):
            continue
        a, b = (scaled(joules, "J") for joules in (each.a_joules, each.b_joules))
        change = each.difference
        verdict = ""
        if change is not None:
            interval = f"{_signed(change.low_joules)} to {_signed(change.high_joules)}"
            verdict = f"; {change.verdict}: {_signed(change.joules)} ({interval})"
        yield f"{each.stage} J/{each.unit}: A {a}; B {b}{verdict}"


def _notes(diff: RunDiff) -> Iterator[str]:
    yield "Difference = samples + time per sample + power.   ? undecided, = no difference"
    if any("/" in (part.stage or "") for part in diff.parts):
        yield "Sub-stages are part of their stages."
    if diff.lower_bounds:
        yield (
            f"≥: lower bound, because the energy of a device or a process of {' and '.join(diff.lower_bounds)} is missing; "
            "a difference that may come from it is undecided."
        )
    if not diff.same_devices:
        yield "Different devices measured the runs: their errors are independent."
    whole = [part for part in diff.parts if part.phase is None and part.stage != "other"]
    unknown = [part.stage or "" for part in whole if part.time is not None and part.samples is None]
    if unknown:
        yield f"The number of samples of {', '.join(unknown)} is unknown: its change is part of time."
    for fact in diff.facts:
        yield f"{fact.name}: A {fact.a}; B {fact.b}"
