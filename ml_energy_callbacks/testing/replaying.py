"""Replays of measured or made-up runs: marks and readings in, the record of a live run out."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import pairwise
from math import isfinite
from operator import index
from statistics import median
from typing import Any, Final, TypeVar, get_args

from ml_energy_callbacks.carbon.numbers import plain_number
from ml_energy_callbacks.clock import NS_PER_S, utc_now
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.options import is_flag
from ml_energy_callbacks.meter.sampler import FIRST_REVIEW_NS, REVIEW_NS
from ml_energy_callbacks.meter.stages import check_stage
from ml_energy_callbacks.metrics import MOST_COUNT, PARTS, PHASES, Part, Phase
from ml_energy_callbacks.readings import Device, Kind, Method
from ml_energy_callbacks.record.recording import (
    LONGEST_S,
    Fit,
    Line,
    Mark,
    Polled,
    Readings,
    Recording,
    Start,
    Stop,
    package_version,
)
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.safe_text import describe
from ml_energy_callbacks.testing.player import Player

_TOGETHER_NS: Final = 100_000_000
"""Readings within this time are added to the ledgers together, about as in a live run."""

_BATCH: Final[frozenset[Phase]] = frozenset({"compute", "step", "compile"})
"""Phases from a batch's start to its end."""

_Word = TypeVar("_Word", bound=str)
_Value = TypeVar("_Value")
_Place = tuple[float, str | None, Phase | Part]
"""A mark: when the phase began, in s, and the stage and the phase."""

_End = tuple[float, str, Phase | Part, int | None, int | None]
"""When a batch ended, in s, in which stage and phase, and its numbers of samples and of tokens."""

_SAMPLES: Final = "(s, number of samples) or (s, number of samples, number of tokens)"


def replay(
    marks: Iterable[tuple[float, str | None, Phase | Part | None]],
    counters: Mapping[str, Iterable[tuple[float, float | None]]] | None = None,
    powers: Mapping[str, Iterable[tuple[float, float | None]]] | None = None,
    kind: Kind = "gpu",
    samples: Iterable[tuple[float, int | None] | tuple[float, int | None, int | None]] | None = None,
    windows: Mapping[str, float] | None = None,
) -> RunRecord:
    """Return the record of a run from its marks and readings, as the code of a live run computes it.

    Times are in s of one clock with any zero. Readings before the first mark and after the last one help to date those between
    them; their energy is not part of the run.

    Args:
        marks: When each phase began: s, stage or sub-stage such as ``predict/prefill``, phase or a part of ``compute`` such as
            ``forward``. ``(s, None, None)`` at the end ends the run, and before that it begins a time that is not part of it.
        counters: What polls of an energy counter showed: s and cumulative J, by a name for each device; None or NaN where a
            read failed.
        powers: What polls of a power reading showed: s and W.
        kind: Kind of the devices.
        samples: When a batch ended, in s, its number of samples and, where they were counted, of tokens; None where a number is
            unknown. If not given, a batch of unknown size ends with each phase ``compute``, ``step`` or ``compile``.
        windows: Length in s of the window of which each of ``powers`` shows the mean, by the device's name. Without it, the
            phases' energy is a range.

    Raises:
        ConfigurationError: These cannot be the marks, readings and samples of a run.
    """
    kind = _one_of(get_args(Kind), kind, "kind")
    run = _run(marks)
    ends = _batch_ends(run) if samples is None else _samples(samples, run)
    polls: dict[str, tuple[Method, list[tuple[float, float | None]]]] = {}
    methods: dict[str, Method] = {"counters": "energy_counter", "powers": "power_integration"}
    for given, devices in (("counters", counters), ("powers", powers)):
        for name, each in _by_name(devices, given).items():
            if name in polls:
                msg = f"The device {describe(name)} is in counters and in powers; give it in one of them."
                raise ConfigurationError(msg)
            polls[name] = (methods[given], _polls(each, f"{given}[{name!r}]"))
    lengths = _windows(windows, {name: each for name, (method, each) in polls.items() if method == "power_integration"})
    times = [run[0][0], run[-1][0], *(time for _, values in polls.values() for time, _ in values)]
    zero = min(times)
    if max(times) - zero > LONGEST_S:
        msg = f"Marks and readings are up to {max(times) - zero:g} s apart; give all of them in s of the same clock."
        raise ConfigurationError(msg)

    def ns(seconds: float) -> int:
        return NS_PER_S + round((seconds - zero) * NS_PER_S)

    start = Start(
        package=package_version(),
        ns=NS_PER_S,
        started_at=utc_now().isoformat(),
        devices=[_device(name, kind, method, values, lengths.get(name)) for name, (method, values) in polls.items()],
    )
    readings = {name: [Polled(ns(time), ns(time), value) for time, value in values] for name, (_, values) in polls.items()}
    streams: list[Iterable[Line]] = [  # at the same instant, in this order
        [start, Mark(ns=NS_PER_S)],  # a session begins inside the run
        [
            Mark(ns=ns(time), kind="batches", stage=stage, phase=phase, batches=1, samples=number, tokens=tokens)
            for time, stage, phase, number, tokens in ends
        ],
        [Mark(ns=ns(time), stage=stage, phase=phase) for time, stage, phase in run],
        [Stop(ns=ns(run[-1][0]), status="completed")],
        _reviewed(_together(readings)),
    ]
    return Player(start).play_lines(merge(*streams, key=lambda line: line.ns))


def replay_file(path: str | os.PathLike[str], carbon_intensity: float | None = None, pue: float = 1.0) -> RunRecord:
    """Return the record of a run from the file that ``EnergyMeter(recording=...)`` or ``raw_readings=True`` wrote.

    Args:
        path: The file.
        carbon_intensity: In g CO2e per kWh; None for the world average.
        pue: Power usage effectiveness of the data centre.

    Raises:
        RecordError: The file cannot be read, or is no recording.
    """
    recording = Recording(path)
    record = Player(recording.first, carbon_intensity, pue).play_lines(recording.lines())
    if recording.left_out is not None:
        record.warnings.append(recording.left_out)
    return record


def _run(marks: Iterable[object]) -> list[_Place]:
    run: list[_Place] = []
    for mark, name in _rows(marks, "marks", "(s, stage, phase)", 3):
        time, stage, phase = mark
        if stage is None and phase is None:
            run.append((time, None, "other"))
        else:
            check_stage(stage, f"the stage of {name} is")
            run.append((time, stage, _one_of((*PHASES, *PARTS), phase, f"the phase of {name}")))
    if not run or run[-1][1] is not None:
        msg = "marks must end with (s, None, None), the end of the run; before it, give (s, stage, phase) where a phase begins."
        raise ConfigurationError(msg)
    return run


def _polls(readings: Iterable[object], name: str) -> list[tuple[float, float | None]]:
    polls: list[tuple[float, float | None]] = []
    for (time, value), row in _rows(readings, name, "(s, value)", 2):
        number = plain_number(value)
        if not isfinite(number) and value is not None and not isinstance(value, float):
            msg = f"{row} has the value {describe(value)}; give a number, or None where a read failed."
            raise ConfigurationError(msg)
        polls.append((time, number if isfinite(number) else None))
    return polls


def _by_name(given: Mapping[str, _Value] | None, called: str) -> dict[str, _Value]:
    """Return what is given for each device, by its name as a text.

    Raises:
        ConfigurationError: It is no mapping, or two names are the same text.
    """
    try:
        pairs = [] if given is None else list(given.items())
    except AttributeError:
        msg = f"{called} is {describe(given)}; give a dict by the names of devices."
        raise ConfigurationError(msg) from None
    named = {str(name): value for name, value in pairs}
    if len(named) < len(pairs):
        msg = f"{called} has two names that are the same text, of {', '.join(named)}; give each device a name of its own."
        raise ConfigurationError(msg)
    return named


def _windows(
    windows: Mapping[str, float] | None, powers: Mapping[str, Sequence[tuple[float, float | None]]]
) -> dict[str, float]:
    lengths: dict[str, float] = {}
    for name, length in _by_name(windows, "windows").items():
        seconds, polls = plain_number(length), powers.get(name)
        if polls is None or not 0 <= seconds <= LONGEST_S:
            msg = f"windows[{name!r}] is {describe(length)}; give the length of a window in s for a name of powers."
            raise ConfigurationError(msg)
        if polls and seconds > polls[-1][0] - polls[0][0]:
            msg = (
                f"windows[{name!r}] is {describe(length)} s, and its readings take {polls[-1][0] - polls[0][0]:g} s; give the "
                "length of the window of which each reading is the mean."
            )
            raise ConfigurationError(msg)
        lengths[name] = seconds
    return lengths


def _samples(samples: Iterable[object], run: Sequence[_Place]) -> list[_End]:
    found: list[_End] = []
    following = iter([*run[1:], None])
    (_, stage, phase), until = run[0], next(following)
    for (time, *numbers), row in _rows(samples, "samples", _SAMPLES, 2, 3):
        while until is not None and until[0] < time:
            (_, stage, phase), until = until, next(following)
        if stage is None or time < run[0][0]:
            msg = f"{row} is at {time:g} s, outside the run: no mark has begun a phase there."
            raise ConfigurationError(msg)
        size, tokens = (*numbers, None)[:2]
        found.append((time, stage, phase, _count(size, row, "samples"), _count(tokens, row, "tokens")))
    for i, what in ((3, "samples"), (4, "tokens")):
        if sum(end[i] or 0 for end in found) > MOST_COUNT:  # type: ignore[misc]
            msg = f"samples has more than {MOST_COUNT:g} {what} in all; give the number of {what} of each batch."
            raise ConfigurationError(msg)
    return found


def _count(number: object, row: str, what: str) -> int | None:
    if number is None:
        return None
    try:
        count = -1 if is_flag(number) else index(number)  # type: ignore[arg-type]
    except TypeError:
        count = -1
    if not 0 <= count <= MOST_COUNT:
        msg = f"{row} has {describe(number)} {what}; give a whole number, or None where it is unknown."
        raise ConfigurationError(msg)
    return count


def _batch_ends(run: Sequence[_Place]) -> list[_End]:
    return [
        (after[0], stage, phase, None, None)
        for (_, stage, phase), after in pairwise(run)
        if stage and phase in {*_BATCH, *PARTS} and not (after[1] == stage and _goes_on(phase, after[2]))
    ]


def _goes_on(phase: Phase | Part, after: Phase | Part) -> bool:
    """Return whether a batch goes on in another part of it."""
    return after in PARTS or (phase in PARTS and after == "compute")


def _rows(rows: Iterable[object], name: str, form: str, *lengths: int) -> Iterator[tuple[list[Any], str]]:
    """Yield each row, the first number of which is a time in s, as a list and with its name in messages.

    Raises:
        ConfigurationError: One is no such row, or its time is before that of the one above.
    """
    before = None
    for i, row in enumerate(_iterated(rows, name, form)):
        values = list(_iterated(row, f"{name}[{i}]", form))
        time = plain_number(values[0]) if len(values) in lengths else None
        if time is None or not isfinite(time):
            msg = f"{name}[{i}] is {describe(row)}; give {form}."
            raise ConfigurationError(msg)
        if before is not None and time < before:
            msg = f"{name} run backwards, from {before:g} to {time:g} s at {name}[{i}]; give them in the order of their times."
            raise ConfigurationError(msg)
        before = time
        yield [time, *values[1:]], f"{name}[{i}]"


def _iterated(rows: object, name: str, form: str) -> Iterator[Any]:
    try:
        return iter(rows)  # type: ignore[call-overload,no-any-return]
    except TypeError:
        msg = f"{name} is {describe(rows)}; give {form}."
        raise ConfigurationError(msg) from None


def _one_of(words: Sequence[_Word], word: object, name: str) -> _Word:
    if not isinstance(word, str) or word not in words:
        msg = f"{name} is {describe(word)}; use one of {', '.join(words)}."
        raise ConfigurationError(msg)
    return words[words.index(word)]


def _device(
    name: str, kind: Kind, method: Method, polls: Sequence[tuple[float, float | None]], window_s: float | None
) -> Device:
    gaps = [after[0] - before[0] for before, after in pairwise(polls)]
    return Device(
        id=name,
        name=name,
        kind=kind,
        backend="replay",
        method=method,
        provenance="measured",
        relative_uncertainty=0.0,
        min_interval_s=median(gaps) if gaps else 0.0,  # how long a gap is too long depends on that
        power_window_s=window_s,
    )


def _reviewed(groups: Iterable[Readings]) -> Iterator[Readings | Fit]:
    """Yield groups of readings, and fits as often as a live run has them."""
    pause, due = FIRST_REVIEW_NS, NS_PER_S + FIRST_REVIEW_NS
    for group in groups:
        yield group
        if group.ns >= due:
            yield Fit(ns=group.ns)
            pause = min(2 * pause, REVIEW_NS)
            due = group.ns + pause


def _together(readings: Mapping[str, Sequence[Polled]]) -> Iterator[Readings]:
    """Yield the readings of all devices in groups, in the order of their times."""
    group: dict[str, list[Polled]] = {}
    since = last = 0
    rows = [[(each, name) for each in polls] for name, polls in readings.items()]
    for each, name in merge(*rows, key=lambda row: row[0].ended_ns):
        if group and each.ended_ns > since + _TOGETHER_NS:
            yield Readings(ns=last, devices=group)
            group = {}
        if not group:
            since = each.ended_ns
        group.setdefault(name, []).append(each)
        last = each.ended_ns
    if group:
        yield Readings(ns=last, devices=group)
