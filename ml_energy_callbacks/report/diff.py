"""What changed between two runs, and why: samples, time and power of each stage and phase, and a sample's energy; pure.

The energy of a phase is samples x seconds per sample x watts. Its difference is divided among the three by their Shapley values
(J. Albrecht, D. Francois, K. Schoors, A Shapley decomposition of carbon emissions without residuals, 2002): each gets its mean
contribution over all orders in which the three may have changed, so that they add up to the difference and neither run goes
first. Each is a sum of multiples of the two energies, through which the errors of the split and of the devices enter it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import hypot
from typing import Literal, get_args

import msgspec

from ml_energy_callbacks.metrics import PHASES, STAGES
from ml_energy_callbacks.record.schema import PhaseRecord, RunRecord, StageRecord

Unit = Literal["sample", "token"]

Verdict = Literal["less", "more", "no difference", "undecided"]
"""How run B compares with run A; ``undecided`` if its interval, or energy that is missing, allows both less and more."""

_ALIKE = 0.05
"""An interval that includes 0 means no difference if it is within this share of the larger energy."""


class Change(msgspec.Struct, kw_only=True):
    """A change of energy from run A to run B.

    Attributes:
        joules: Energy in B minus energy in A in J; None where only the interval is known.
        low_joules: Lower end of its 95 % interval in J.
        high_joules: Upper end.
        verdict: Whether B used ``less`` or ``more``.
    """

    joules: float | None
    low_joules: float
    high_joules: float
    verdict: Verdict


class Part(msgspec.Struct, kw_only=True):
    """The change of the whole run, of a stage, of a phase of one, or of a part of its batches.

    Attributes:
        stage: Name of the stage, or of a sub-stage such as ``predict/prefill``; None for the whole run.
        phase: Name of the phase; None for all of them.
        part: Name of the part of the batches such as ``forward``, which is part of ``compute``; None for the whole phase.
        a_joules: Energy in run A in J: 0 where the run does not have the stage or the phase, None where it is unknown.
        b_joules: The same in run B.
        difference: The change of the energy; None where nothing is known.
        samples: The part of it by the number of samples; None where that is unknown, so that it is in ``time``.
        time: The part of it by the time per sample.
        power: The part of it by the power.
    """

    stage: str | None
    phase: str | None
    part: str | None = None
    a_joules: float | None
    b_joules: float | None
    difference: Change | None
    samples: Change | None
    time: Change | None
    power: Change | None


class Each(msgspec.Struct, kw_only=True):
    """The change of the energy of a sample or a token, without compilation as in ``joules_per_sample``.

    Attributes:
        stage: Name of the stage or sub-stage.
        unit: ``sample`` or ``token``.
        a_joules: Energy of one in run A in J; None where it is unknown.
        b_joules: The same in run B.
        difference: The change; None where one of them is unknown.
    """

    stage: str
    unit: Unit
    a_joules: float | None
    b_joules: float | None
    difference: Change | None


class Fact(msgspec.Struct, kw_only=True):
    """What is not the same in the descriptions of both runs.

    Attributes:
        name: What it is.
        a: In run A.
        b: In run B.
    """

    name: str
    a: str
    b: str


class RunDiff(msgspec.Struct, kw_only=True):
    """What changed from run A to run B.

    Attributes:
        a: Path or URL of the first run's record.
        b: Path or URL of the second one's.
        same_devices: Whether the same devices measured both, so that their errors are the same.
        lower_bounds: Which of the runs, ``A`` and ``B``, lack energy of a device or a process.
        facts: What is not the same in the descriptions of both.
        total: The change of the whole run; its parts are the sums of those of the stages.
        parts: The changes of stages, each followed by those of its phases, which add up to it where all are known, and by its
            sub-stages, which it includes, with theirs. A phase is followed by the parts of its batches that both runs have.
        each: The changes of the energy of a sample, and of a token, where it is known of a run.
    """

    a: str
    b: str
    same_devices: bool
    lower_bounds: list[str]
    facts: list[Fact]
    total: Part
    parts: list[Part]
    each: list[Each]


@dataclass(frozen=True, slots=True)
class _Side:
    """A run, stage or phase in one of the two runs.

    Attributes:
        joules: Energy in J.
        seconds: Time in s.
        below: How much less the energy may be by the split among phases, in J.
        above: How much more.
        doubt: Half-width of the interval of the devices, as a share of the energy.
    """

    joules: float = 0.0
    seconds: float = 0.0
    below: float = 0.0
    above: float = 0.0
    doubt: float = 0.0


@dataclass(frozen=True, slots=True)
class _Term:
    """A change in J, and by how much it may be less or more."""

    joules: float = 0.0
    below: float = 0.0
    above: float = 0.0

    def __add__(self, other: "_Term") -> "_Term":
        """Return the sum; errors add up, as those of the phases of a stage are not independent."""
        return _Term(self.joules + other.joules, self.below + other.below, self.above + other.above)


_Split = tuple[_Term, _Term, _Term]
"""The parts of a change by samples, time and power."""


def diff_runs(a: RunRecord, b: RunRecord, names: tuple[str, str] = ("A", "B")) -> RunDiff:
    """Return what changed from run A to run B.

    A record does not differ from itself. Where the same devices measured both runs, their errors are the same in both and scale
    the change; else they are independent. The error of a power model depends on the load: whether power changed is undecided by
    an estimate alone.

    Args:
        a: The first run.
        b: The second run.
        names: Their paths or URLs.
    """
    return _Comparison(a, b).result(names)


class _Comparison:
    """Compares two runs, stage by stage.

    Attributes:
        same_devices: Whether the same devices measured both.
    """

    def __init__(self, a: RunRecord, b: RunRecord) -> None:
        self._runs = (a, b)
        self._one_record = a == b
        self.same_devices = _devices(a) == _devices(b)
        self._lower_bounds = (a.lower_bound, b.lower_bound)
        self._modelled = any(device.method == "model" for run in self._runs for device in run.devices)

    def result(self, names: tuple[str, str]) -> RunDiff:
        """Return what changed."""
        parts: list[Part] = []
        each: list[Each] = []
        splits: list[_Split | None] = []
        for name in STAGES:
            stages = [run.stages.get(name) for run in self._runs]
            if stages != [None, None]:
                found, split = self._stage(name, stages, stages)
                parts += found
                each += self._each(name, stages)
                splits.append(split)
            for own in dict.fromkeys(own for stage in stages if stage is not None for own in stage.substages):
                substages = [None if stage is None else stage.substages.get(own) for stage in stages]
                parts += self._stage(f"{name}/{own}", substages, stages)[0]
                each += self._each(f"{name}/{own}", substages)
        counted = any(part.samples is not None for part in parts)
        sides = [_side(run.total.joules, run.total.seconds, run.total.relative_uncertainty) for run in self._runs]
        facts = zip(*map(_facts, self._runs), strict=True)
        return RunDiff(
            a=names[0],
            b=names[1],
            same_devices=self.same_devices,
            lower_bounds=[name for name, lower in zip("AB", self._lower_bounds, strict=True) if lower],
            facts=[Fact(name=name, a=x, b=y) for (name, x), (_, y) in facts if x != y],
            total=self._part(None, None, sides, _sum(splits), counted=counted),
            parts=parts,
            each=each,
        )

    def _stage(
        self, name: str, stages: Sequence[StageRecord | None], whole: Sequence[StageRecord | None]
    ) -> tuple[list[Part], _Split | None]:
        """Return the change of a stage and those of its phases, and its parts: those of its phases if all are known.

        A sub-stage without batches of its own is a part of the batches of the ``whole`` stage, and so of their samples.
        """
        sized = stages if any(stage is not None and stage.batches for stage in stages) else whole
        samples = [0 if stage is None else stage.samples for stage in sized]
        counts = None if None in samples or not all(stage is None or stage.samples for stage in sized) else samples
        sides = [_Side() if each is None else _stage_side(each, part="/" in name) for each in stages]
        doubts = [0.0 if each is None else _doubt(each.joules, each.relative_uncertainty) for each in stages]
        found: list[Part] = []
        splits: list[_Split | None] = []
        for phase in PHASES:
            records = [None if stage is None else stage.phases.get(phase) for stage in stages]
            if records != [None, None]:
                parts, split = self._phase(name, phase, records, doubts, counts)
                found += parts
                splits.append(split)
        split = _sum(splits) if splits and None not in sides else None
        split = split or self._split(sides, counts)
        return [self._part(name, None, sides, split, counted=counts is not None), *found], split

    def _phase(
        self,
        stage: str,
        phase: str,
        records: Sequence[PhaseRecord | None],
        doubts: Sequence[float],
        counts: Sequence[int | None] | None,
    ) -> tuple[list[Part], _Split | None]:
        """Return the change of a phase and those of the parts of its batches, and its parts as of a stage."""
        found: list[Part] = []
        splits: list[_Split | None] = []
        divided = [record.parts for record in records if record is not None]
        for own in dict.fromkeys(own for parts in divided for own in parts if all(divided)):
            inner = [None if record is None else record.parts.get(own) for record in records]
            (change,), split = self._phase(stage, phase, inner, doubts, counts)
            found.append(msgspec.structs.replace(change, part=own))
            splits.append(split)
        sides = [_phase_side(record, doubt) for record, doubt in zip(records, doubts, strict=True)]
        split = _sum(splits) if splits and None not in sides else None
        split = split or self._split(sides, counts)
        whole = self._part(stage, phase, sides, split, counted=counts is not None)
        if whole.difference is None:
            whole.difference = self._bounds(records, doubts)
        return [whole, *found], split

    def _each(self, name: str, stages: Sequence[StageRecord | None]) -> Iterator[Each]:
        """Yield the changes of the energy of a sample and of a token of a stage, if it is known of a run."""
        for unit in get_args(Unit):
            sides = [None if stage is None else _side_of_each(stage, unit, part="/" in name) for stage in stages]
            if sides != [None, None]:
                part = self._part(name, None, sides, self._split(sides, None), counted=False)
                yield Each(stage=name, unit=unit, a_joules=part.a_joules, b_joules=part.b_joules, difference=part.difference)

    def _part(
        self, stage: str | None, phase: str | None, sides: Sequence[_Side | None], split: _Split | None, *, counted: bool
    ) -> Part:
        a, b = sides
        difference: Change | None = None
        changes: list[Change | None] = [None, None, None]
        if a is not None and b is not None:
            scale = max(a.joules, b.joules)
            by_power = 0.0 if split is None else split[2].joules
            difference = self._judge(self._term(a, b, (-1.0, 1.0), by_power), scale)
            if split is not None:
                changes = [self._judge(term, scale) for term in split]
        return Part(
            stage=stage,
            phase=phase,
            a_joules=None if a is None else a.joules,
            b_joules=None if b is None else b.joules,
            difference=difference,
            samples=changes[0] if counted else None,
            time=changes[1],
            power=changes[2],
        )

    def _split(self, sides: Sequence[_Side | None], samples: Sequence[int | None] | None) -> _Split | None:
        """Return the parts of a change by samples, time and power; None where they are unknown.

        A run without the stage has no samples, and one without the phase no time. What then has no value, such as the power of
        no time, is taken from the other run: it is not what changed.
        """
        a, b = sides
        if a is None or b is None or any(side.joules and not side.seconds for side in (a, b)):
            return None
        n_a, n_b = (1, 1) if samples is None else (samples[0] or 0, samples[1] or 0)
        t_a, t_b = (side.seconds / count if count else None for side, count in ((a, n_a), (b, n_b)))
        t_a, t_b = t_a if t_a is not None else t_b or 0.0, t_b if t_b is not None else t_a or 0.0
        more, longer = n_b - n_a, t_b - t_a
        work = (n_a * t_a + n_b * t_b) / 3 + (n_a * t_b + n_b * t_a) / 6
        by_samples = _multiples(a, b, more * (t_a / 3 + t_b / 6), more * (t_b / 3 + t_a / 6))
        by_time = _multiples(a, b, longer * (n_a / 3 + n_b / 6), longer * (n_b / 3 + n_a / 6))
        by_power = _multiples(a, b, -work, work)
        power = by_power[0] * a.joules + by_power[1] * b.joules
        return self._term(a, b, by_samples), self._term(a, b, by_time), self._term(a, b, by_power, power)

    def _term(self, a: _Side, b: _Side, multiples: tuple[float, float], by_power: float = 0.0) -> _Term:
        """Return the sum of these multiples of both energies, with its errors; ``by_power`` of it is a change of power."""
        parts = [each * side.joules for each, side in zip(multiples, (a, b), strict=True)]
        ends = [
            (each * side.below, each * side.above) if each > 0 else (-each * side.above, -each * side.below)
            for each, side in zip(multiples, (a, b), strict=True)
        ]
        if self.same_devices:
            devices = max(a.doubt, b.doubt) * abs(sum(parts)) + abs(by_power) * self._modelled
        else:
            devices = hypot(a.doubt * parts[0], b.doubt * parts[1])
        below, above = (hypot(ends[0][i], ends[1][i]) + devices for i in range(2))
        return _Term(sum(parts), below, above)

    def _bounds(self, records: Sequence[PhaseRecord | None], doubts: Sequence[float]) -> Change | None:
        """Return the interval of the change of a phase whose energy is known as an interval only, in one run or in both."""
        ends = []
        for record, doubt in zip(records, doubts, strict=True):
            interval = (0.0, 0.0) if record is None else record.interval
            if interval is None:
                return None
            ends.append((max(0.0, interval[0]) * max(0.0, 1 - doubt), interval[1] * (1 + doubt)))
        (low_a, high_a), (low_b, high_b) = ends
        return self._change(None, low_b - high_a, high_b - low_a, max(high_a, high_b))

    def _judge(self, term: _Term, scale: float) -> Change:
        return self._change(term.joules, term.joules - term.below, term.joules + term.above, scale)

    def _change(self, joules: float | None, low: float, high: float, scale: float) -> Change:
        if self._one_record:
            return Change(joules=0.0, low_joules=0.0, high_joules=0.0, verdict="no difference")
        more, less = low > 0, high < 0
        verdict: Verdict = "more" if more else "less" if less else "undecided"
        if verdict == "undecided" and max(-low, high) <= _ALIKE * scale:
            verdict = "no difference"
        a_missing, b_missing = self._lower_bounds
        if (a_missing and not less) or (b_missing and not more):  # the energy that is missing may be as large
            verdict = "undecided"
        return Change(joules=joules, low_joules=low, high_joules=high, verdict=verdict)


def _side(joules: float | None, seconds: float, doubt: float | None) -> _Side | None:
    return None if joules is None else _Side(joules, seconds, doubt=_doubt(joules, doubt))


def _doubt(joules: float | None, relative: float | None) -> float:
    """Return the doubt of an energy as a share of it: all of it where it is unknown, as of a run that another tool measured."""
    return relative if relative is not None else 1.0 if joules else 0.0


def _stage_side(stage: StageRecord, *, part: bool) -> _Side | None:
    """Return a stage in one of the runs; the energy of a sub-stage is a ``part`` of that of its stage, by a split."""
    side = _side(stage.joules, stage.seconds, stage.relative_uncertainty)
    intervals = [phase.interval for phase in stage.phases.values()] if part else []
    known = [interval for interval in intervals if interval is not None]
    if side is None or not known or len(known) < len(intervals):
        return side
    low, high = (sum(interval[end] for interval in known) for end in (0, 1))
    return replace(side, below=max(0.0, side.joules - low), above=max(0.0, high - side.joules))


def _side_of_each(stage: StageRecord, unit: Unit, *, part: bool) -> _Side | None:
    """Return the energy and the time of a sample or a token, without compilation; None where they are unknown."""
    if unit == "sample":
        joules, number, compiled = stage.joules_per_sample, stage.samples, stage.compile_samples
    else:
        joules, number, compiled = stage.joules_per_token, stage.tokens, stage.compile_tokens
    if joules is None or number is None:
        return None
    whole, compiling = _stage_side(stage, part=part), stage.phases.get("compile")
    seconds = stage.seconds - (0.0 if compiling is None else compiling.seconds or 0.0)
    times = 0.0 if whole is None or not whole.joules else joules / whole.joules
    below, above = (0.0, 0.0) if whole is None else (times * whole.below, times * whole.above)
    return _Side(
        joules, max(0.0, seconds) / max(1, number - compiled), below, above, _doubt(stage.joules, stage.relative_uncertainty)
    )


def _phase_side(phase: PhaseRecord | None, doubt: float) -> _Side | None:
    """Return a phase in one of the runs: nothing where the run does not have it, None where it is unknown."""
    if phase is None:
        return _Side()
    if phase.joules is None or phase.seconds is None:
        return None
    low, high = phase.interval or (phase.joules, phase.joules)
    return _Side(phase.joules, phase.seconds, phase.joules - low, high - phase.joules, doubt)


def _multiples(a: _Side, b: _Side, on_a: float, on_b: float) -> tuple[float, float]:
    """Return multiples of the energies from those of the powers, where a power without time is that of the other run."""
    if a.seconds and b.seconds:
        return on_a / a.seconds, on_b / b.seconds
    if b.seconds:
        return 0.0, (on_a + on_b) / b.seconds
    return ((on_a + on_b) / a.seconds, 0.0) if a.seconds else (0.0, 0.0)


def _sum(splits: Sequence[_Split | None]) -> _Split | None:
    """Return the sums of the parts; None if any is unknown."""
    known = [split for split in splits if split is not None]
    if len(known) < len(splits):
        return None
    samples, time, power = (reduce(_Term.__add__, (split[i] for split in known), _Term()) for i in range(3))
    return samples, time, power


def _devices(run: RunRecord) -> set[tuple[str, str, str, str | None]]:
    return {(device.id, device.name, device.method, device.note) for device in run.devices}


def _facts(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield descriptions of a run that may explain a change."""
    train = run.stages.get("train")
    yield "model", run.run.model or "unknown"
    yield "framework", run.run.framework
    yield "status", run.run.status
    yield "hosts", ", ".join(run.run.hostnames)
    yield "processes", f"{run.run.world_size:,}"
    yield "devices", ", ".join(sorted(device.name for device in run.devices)) or "none"
    yield "training samples", "unknown" if train is None or train.samples is None else f"{train.samples:,}"
    yield "training tokens", "unknown" if train is None or train.tokens is None else f"{train.tokens:,}"
    yield "training batches", "unknown" if train is None else f"{train.batches:,}"
    yield "tags", ", ".join(f"{name}={value}" for name, value in sorted(run.run.tags.items())) or "none"
