"""The headline of a run: what terminal, notebook, page and tab show first, as plain texts in one order."""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Final

from ml_energy_callbacks.carbon import world
from ml_energy_callbacks.metrics import JOULES_PER_WH, STAGES, known_sum
from ml_energy_callbacks.record.schema import FILE_NAME, PhaseRecord, RunRecord, StageRecord
from ml_energy_callbacks.record.storage import as_place
from ml_energy_callbacks.report.hints import Hint, find_hints
from ml_energy_callbacks.report.quantities import (
    UNKNOWN,
    factor_of,
    money,
    percent,
    prefix_of,
    scaled,
    significant,
    uncertainty,
)
from ml_energy_callbacks.safe_text import printable, shorten

_LABELS: Final = {"train": "Train", "validate": "Valid", "test": "Test", "predict": "Predict"}
_OF_STAGES: Final = {*_LABELS.values(), "Other"}
_GAP: Final = "   "
_BEFORE_UNIT: Final = re.compile(r"(?<=\d) (?=[\w%])")
_PHASES: Final = {"compute": "compute", "compile": "compilation", "data_wait": "data wait"}

_WIDE = 0.1
"""A share whose 95 % interval is wider is shown as that interval; a figure that is known better gets a third digit."""

_LEAST_SHARE = 0.005
"""What time outside of stages has to use to get a line."""

_MANY_SECONDS = 999.5
_MOST_NAMED = 3
_LONGEST_REASON = 120


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the headline.

    Attributes:
        label: ``Energy``, the name of a stage (``Train``, ``Valid``, ``Test``, ``Predict``), ``Other``, ``!`` for what is
            missing or assumed, or ``Record``.
        cells: The texts of the line in order, free of markup and control characters.
    """

    label: str
    cells: Sequence[str]


def headline(record: RunRecord, path: Path | str | None = None) -> Sequence[Line]:
    """Return the headline of a run: at most six lines.

    ``Energy`` is always there; then come the lines of training and validation or, in a run without both, those of test and
    prediction; ``Other`` for the other stages; ``!`` for what is missing or assumed; and ``Record``.

    Args:
        record: The run.
        path: Path or URL of its record; None for where it was written to, if anywhere.
    """
    main: list[str] = [name for name in ("train", "validate") if name in record.stages]
    main = main or [name for name in ("test", "predict") if name in record.stages]
    hint = next(iter(find_hints(record)), None)
    about = None if hint is None else hint.stage or next(iter(main), None)
    where = path if path is not None else record.run.record_path
    cells = [
        ("Energy", _total(record)),
        *((_LABELS[name], _stage(record, name, hint if about == name else None)) for name in main),
        ("Other", _other(record, main, None if about in main else hint)),
        ("!", _caveats(record)),
        ("Record", () if where is None else _place(where)),
    ]
    lines = [Line(label, [printable(cell) for cell in found]) for label, found in cells]
    return [line for line in lines if line.cells]


def summary(record: RunRecord, path: Path | str | None = None, columns: int | None = None) -> str:
    """Return the headline of a run as text; the arguments are those of :func:`headline` and :func:`headline_text`."""
    return headline_text(headline(record, path), columns)


def short(record: RunRecord) -> str:
    """Return the first line of the headline without its label."""
    return ", ".join(headline(record)[0].cells)


def headline_text(lines: Sequence[Line], columns: int | None = None) -> str:
    """Return a headline as text for a fixed-width font, with the cells of the stages below each other.

    Args:
        lines: The headline.
        columns: Width to keep to as far as words can be moved to a further line; None for lines of any length.
    """
    label_width = max(len(line.label) for line in lines)
    stages = [line.cells for line in lines if line.label in _OF_STAGES]
    widths = [max((len(cells[i]) for cells in stages if len(cells) > i + 1), default=0) for i in range(2)]
    return "\n".join(_text_line(line, label_width, widths, columns) for line in lines)


def _text_line(line: Line, label_width: int, widths: Sequence[int], columns: int | None) -> str:
    cells = list(line.cells)
    if line.label in _OF_STAGES and len(cells) > 1:
        cells[0] = cells[0].rjust(widths[0])
        cells[1:-1] = [cell.ljust(widths[1]) for cell in cells[1:-1]]
    head = f"{line.label.ljust(label_width)}  "
    text = head + _GAP.join(cells)
    if columns is None or len(text) <= columns:
        return text
    if line.label == "Record":
        text = head + cells[-1]  # the command has the directory, too
    whole = _BEFORE_UNIT.sub("\u00a0", text)  # where no line is broken
    indent = " " * len(head)
    return fill(whole, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False).replace("\u00a0", " ")


def _total(record: RunRecord) -> Iterator[str]:
    total = record.total
    if total.joules is None:
        yield f"unknown, no device could be read in {_duration(total.seconds)}"
        return
    least = "at least " if record.lower_bound else ""
    watt_hours = scaled(total.joules / JOULES_PER_WH, "Wh", 2)
    parts = [f"{least}{scaled(total.joules, 'J')} ({watt_hours}) in {_duration(total.seconds)}"]
    if total.seconds:
        parts.append(f"{scaled(total.joules / total.seconds, 'W', 2)} mean")
    if total.co2e_grams is not None:
        parts.append(scaled(total.co2e_grams, "g CO2e", 2))
    if total.cost is not None:
        parts.append(money(total.cost, total.currency))
    yield ", ".join(parts)
    if total.provenance is not None:
        yield uncertainty(total.provenance, total.relative_uncertainty)


def _duration(seconds: float) -> str:
    """Return a time in seconds or, of a long one, in minutes, hours and days."""
    if seconds < _MANY_SECONDS:
        return scaled(seconds, "s")
    hours, minutes = divmod(round(seconds / 60), 60)
    days, hours = divmod(hours, 24)
    return " ".join(f"{number:,} {unit}" for number, unit in ((days, "d"), (hours, "h"), (minutes, "min")) if number)


def _stage(record: RunRecord, name: str, hint: Hint | None) -> Iterator[str]:
    """Yield the share of a stage, its energy per sample, and what the hint says of it or else its phases."""
    stage = record.stages[name]
    if stage.joules is None:
        yield f"energy unknown, {_duration(stage.seconds)}"
        return
    yield _percent_of(stage.joules, record)
    yield _costs(record, stage) or "samples unknown"
    if hint is not None:
        yield hint.short if hint.phase is None else f"{_phase(stage, hint.phase)}: {hint.short}"
    elif phases := [text for phase in _PHASES if (text := _phase(stage, phase)) is not None]:
        yield ", ".join(phases)


def _percent_of(joules: float, record: RunRecord) -> str:
    return percent(joules / record.total.joules) if record.total.joules else UNKNOWN


def _costs(record: RunRecord, stage: StageRecord) -> str | None:
    """Return the energy of a sample and of a token; None where neither is known."""
    return ", ".join(filter(None, (_cost_of(unit, record, stage) for unit in ("sample", "token")))) or None


def _cost_of(unit: str, record: RunRecord, stage: StageRecord) -> str | None:
    """Return the energy of a sample or a token, with one SI prefix for all stages that are compared by it."""
    field = f"joules_per_{unit}"
    joules: float | None = getattr(stage, field)
    if joules is None:
        return None
    compared = [getattr(each, field) or 0.0 for name, each in record.stages.items() if name in _LABELS]
    prefix = prefix_of(max(compared), f"J/{unit}")
    digits = 3 if stage.relative_uncertainty is not None and stage.relative_uncertainty < _WIDE else 2
    return f"{significant(joules / factor_of(prefix), digits)} {prefix}J/{unit}"


def _phase(stage: StageRecord, name: str) -> str | None:
    """Return the share of a phase, or its 95 % interval if that is wide; None if that says nothing."""
    phase = stage.phases.get(name)
    ends = None if phase is None else phase_share(phase, stage)
    if phase is None or ends is None or not stage.joules:
        return None
    low, high = ends
    if phase.joules is None or high - low > _WIDE:
        interval = f"{low * 100:.0f} to {high * 100:.0f} %"
        return None if interval == "0 to 100 %" else f"{_PHASES[name]} {interval}"
    share = min(1.0, max(0.0, phase.joules / stage.joules))
    return None if name == "compile" and not share else f"{_PHASES[name]} {percent(share)}"


def phase_share(phase: PhaseRecord, stage: StageRecord) -> tuple[float, float] | None:
    """Return the ends of the 95 % interval of a phase's share of its stage's energy, within 0 and 1; None if it is unknown."""
    if phase.interval is None or not stage.joules:
        return None
    low, high = (min(1.0, max(0.0, end / stage.joules)) for end in phase.interval)
    return low, high


def _other(record: RunRecord, main: Sequence[str], hint: Hint | None) -> Iterator[str]:
    """Yield the share of the stages without a line of their own, and what their samples cost or what they are."""
    rest = {name: record.stages[name] for name in STAGES if name in record.stages and name not in main}
    joules = known_sum([stage.joules for stage in rest.values()])
    named = [name for name in rest if name != "other"]
    if not main or not rest or (not named and (joules or 0.0) <= _LEAST_SHARE * (record.total.joules or 0.0)):
        return
    yield "energy unknown" if joules is None else _percent_of(joules, record)
    costs = [f"{name} {cost}" for name in named if name in _LABELS and (cost := _costs(record, rest[name])) is not None]
    yield ", ".join(costs or [*(name.replace("_", " ") for name in named), *(["outside of stages"] if "other" in rest else [])])
    if hint is not None:
        yield hint.short


def _caveats(record: RunRecord) -> Iterator[str]:
    """Yield what is missing from the figures or assumed, the most important first."""
    run, carbon = record.run, record.carbon
    if run.status in {"failed", "stopped"} and run.reason:
        yield f"{run.status.capitalize()}: {shorten(run.reason, _LONGEST_REASON)}"
    silent = [device.id for device in record.devices if device.joules is None]
    if run.missing_ranks:
        yield f"{names_of(run.missing_ranks, 'Rank')} of {run.world_size} reported no data"
    if silent:
        more = f" and {len(silent) - _MOST_NAMED:,} more" if len(silent) > _MOST_NAMED else ""
        yield f"Missing, as never read: {', '.join(silent[:_MOST_NAMED])}{more}"
    if record.total.lower_bound and not run.missing_ranks and not silent:
        yield "Part of the energy is missing"
    if carbon.assumed and record.total.co2e_grams is not None:
        partly = "" if carbon.assumed_share in {0.0, 1.0} else f" for {percent(carbon.assumed_share)} of the grams"
        option = "--location FRA" if run.framework == "command" else 'location="FRA"'
        yield f"No location set: world average of {world().g_per_kwh:.0f} g/kWh{partly}. {option}"


def names_of(numbers: Sequence[int], noun: str) -> str:
    """Return numbered things as the subject of a sentence: ``Rank 2``, ``Ranks 2 and 3``."""
    *others, last = map(str, numbers)
    return f"{noun}s {', '.join(others)} and {last}" if others else f"{noun} {last}"


def _place(path: Path | str) -> Iterator[str]:
    """Yield where a record is, and the command that shows more of it."""
    text = _below_here(str(as_place(path)))
    yield text
    folder, name = os.path.split(text)
    yield f"more: ml-energy report {shlex.quote((folder or '.') if name == FILE_NAME else text)}"


def _below_here(path: str) -> str:
    """Return a path relative to the working directory, if it is below it."""
    try:
        return str(Path(path).relative_to(Path.cwd())) if "://" not in path else path
    except (OSError, ValueError):
        return path
