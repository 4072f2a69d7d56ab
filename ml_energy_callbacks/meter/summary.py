"""Ledgers + tallies -> the run record; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import hypot

from msgspec.structs import asdict

from ml_energy_callbacks.attribution.ledger import Ledger
from ml_energy_callbacks.attribution.quantiles import Quantiles
from ml_energy_callbacks.attribution.split import WIDEST, Split, add_splits
from ml_energy_callbacks.attribution.timeline import Counts
from ml_energy_callbacks.carbon import Amounts, Rates
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.metrics import OUTSIDE, PARTS, PHASES, Part, Phase, ratio
from ml_energy_callbacks.record.build import (
    coincidence,
    errors_by_backend,
    explain_single_step,
    mixture,
    process_record,
    stage_energy,
    stage_record,
    total_record,
    weighted_mean,
)
from ml_energy_callbacks.record.power import power_series
from ml_energy_callbacks.record.schema import (
    BesideRecord,
    CarbonRecord,
    DeviceRecord,
    EpochRecord,
    FlopsRecord,
    IntervalRecord,
    LatencyRecord,
    PhaseRecord,
    Run,
    RunRecord,
    StageRecord,
    TotalRecord,
    every_stage,
)

_NEARLY = 0.005
"""Cycles that differ by less from a refresh show all their mixes only in the time of some hundred batches."""

_NO_WINDOW = "The phases cannot be separated: the device reports only its power, as a mean over a time that is unknown."

_Name = tuple[str, str]
"""A device's backend and id."""

_Joules = Mapping[str, tuple[Ledger, Sequence[float]]]
"""Energy of each bucket in J of each device that was read, by its id, with its ledger."""


@dataclass(frozen=True, slots=True)
class Tally:
    """A stage's group and buckets on the timeline; its sums include its sub-stages, which have groups of their own.

    Attributes:
        name: The stage, or the sub-stage as ``<stage>/<name>``.
        group: Its group in the timeline.
        buckets: Index of the timeline's bucket for each phase.
        parts: The same for each part of a batch that ran so far; it is a part of ``compute``.
        substages: Its sub-stages that were named so far.
    """

    name: str
    group: int
    buckets: Mapping[Phase, int]
    parts: dict[Part, int] = field(default_factory=dict)
    substages: list["Tally"] = field(default_factory=list)

    @property
    def parent(self) -> str | None:
        """The stage that a sub-stage is part of; None of a stage."""
        stage, _, own = self.name.partition("/")
        return stage if own else None

    @property
    def places(self) -> Sequence[tuple[Phase | Part, int]]:
        """Its own phases and parts of batches, each with its bucket."""
        return [*self.buckets.items(), *self.parts.items()]

    @property
    def groups(self) -> Sequence[int]:
        """Its group in the timeline, and those of its sub-stages."""
        return [self.group, *(each.group for each in self.substages)]

    def buckets_of(self, phase: Phase) -> Sequence[int]:
        """Return the buckets of a phase: its own, those of the parts of a batch, and those of the sub-stages."""
        parts = self.parts.values() if phase == "compute" else ()
        return [self.buckets[phase], *parts, *(each.buckets[phase] for each in self.substages)]

    def by_phase(self, until: Sequence[float], since: Sequence[float] | None = None) -> dict[Phase, float]:
        """Return the sum of each phase between two instants or since the start, from sums by bucket.

        A bucket that an instant does not have was added only later.
        """
        return {
            phase: sum(value_at(until, bucket) - value_at(since, bucket) for bucket in self.buckets_of(phase))
            for phase in self.buckets
        }

    def count(self, counts: Sequence[Counts]) -> Counts:
        """Return the batches and samples from those of each group."""
        found = Counts()
        for group in self.groups:
            if group < len(counts):
                found = found.plus(counts[group])
        return found


def value_at(values: Sequence[float] | None, bucket: int) -> float:
    """Return the value of a bucket; 0 if there is none yet."""
    return values[bucket] if values is not None and bucket < len(values) else 0


@dataclass(slots=True)
class State:
    """The measured state at one instant, from which a record is built.

    Attributes:
        now: The instant, monotonic clock in ns.
        totals: Time in each bucket in ns.
        counts: Batches and samples of each of the timeline's groups.
        ledgers: One for each device.
        tallies: One for each stage that ran.
        epochs: The epochs that ended.
        warnings: Warnings for the user.
        incomplete: Whether the energy of a device that belongs to the run could not be read.
        whole_machine: The meters of the machine as a whole.
        shares: The job's shares of devices; None without ``scope="process"``.
        unshared: Why the job's share of a device is unknown, by its id.
        idle_watts: Idle power of each device in W by its id, if it was measured.
        latencies: Durations of batches in ns by the timeline's group, also of sub-stages, if they are recorded.
        flops: FLOPs of each stage by its name, where they are known.
        parts_reason: Why the batches of the training have no parts although they were asked for; else None.
    """

    now: int
    totals: Sequence[float]
    counts: Sequence[Counts]
    ledgers: Sequence[Ledger]
    tallies: Sequence[Tally]
    epochs: Sequence[EpochRecord] = field(default_factory=list)
    warnings: Sequence[str] = field(default_factory=list)
    incomplete: bool = False
    whole_machine: Sequence[Ledger] = ()
    shares: Sequence[Ledger] | None = None
    unshared: Mapping[str, str] = field(default_factory=dict)
    idle_watts: Mapping[str, float] = field(default_factory=dict)
    latencies: Mapping[int, Quantiles] = field(default_factory=dict)
    flops: Mapping[str, FlopsRecord | None] = field(default_factory=dict)
    parts_reason: str | None = None


def build_record(run: Run, state: State, rates: Rates) -> RunRecord:
    """Return the record of a run as it stands."""
    joules = {ledger.device.id: (ledger, known) for ledger in state.ledgers if (known := _known(ledger, state)) is not None}
    whole = [sum(column) for column in zip(*(known for _, known in joules.values()), strict=True)]
    amounts = rates.amounts(whole) if joules else None
    devices = [_device(ledger, state, _known(ledger, state)) for ledger in state.ledgers]
    stages: dict[str, StageRecord] = {tally.name: _stage(tally, state, joules, devices, amounts) for tally in state.tallies}
    incomplete = state.incomplete or any(ledger.incomplete_at(state.now, state.totals) for ledger in state.ledgers)
    total = total_record(stages, devices, rates.currency, incomplete=incomplete)
    return RunRecord(
        run=run,
        devices=devices,
        stages=stages,
        epochs=list(state.epochs),
        total=total,
        carbon=_carbon(rates, whole, total),
        warnings=list(state.warnings),
        whole_machine=[_beside(ledger, state) for ledger in state.whole_machine],
        process=None
        if state.shares is None
        else process_record([_beside(ledger, state) for ledger in state.shares], state.unshared),
        power={name: power_series(ledger.power) for name, (ledger, _) in joules.items()},
    )


def phases_by_bucket(record: RunRecord, tallies: Sequence[Tally]) -> dict[int, PhaseRecord]:
    """Return the phases of a record by their buckets."""
    stages = dict(every_stage(record.stages))
    return {
        each.buckets[phase]: phases[phase]
        for tally in tallies
        for each in (tally, *tally.substages)
        if each.name in stages
        for phase in PHASES
        if phase in (phases := stages[each.name].phases)
    }


def _carbon(rates: Rates, joules: Sequence[float], total: TotalRecord) -> CarbonRecord:
    intervals = rates.intervals(joules)
    used = [interval for interval in intervals if interval.joules > 0] or intervals[-1:]
    energies = [interval.joules for interval in used]
    each = [interval.rate.intensity for interval in used]
    grams = [energy * intensity.g_per_kwh for energy, intensity in zip(energies, each, strict=True)]
    changed = any(interval.rate.fallback is not None or not interval.rate.alike(used[-1].rate) for interval in used)
    # The description is that of the intensity that applies to most of the energy.
    intensity = each[energies.index(max(energies))]
    return CarbonRecord(
        intensity_g_per_kwh=weighted_mean([i.g_per_kwh for i in each], energies),
        location=intensity.location,
        **mixture(each, energies, grams),
        assumed_share=weighted_mean([float(i.assumed) for i in each], grams),
        fallback_share=weighted_mean([float(interval.rate.fallback is not None) for interval in used], grams),
        pue=rates.site.pue,
        wue=rates.site.wue,
        water_litres=rates.site.water_litres(total.joules),
        embodied_grams=rates.site.embodied_grams(total.seconds),
        offset_grams=rates.site.offset_grams,
        note=intensity.note,
        intervals=[
            IntervalRecord(
                began=interval.began.isoformat(timespec="seconds"),
                ended=interval.ended.isoformat(timespec="seconds"),
                joules=interval.joules,
                intensity_g_per_kwh=interval.rate.intensity.g_per_kwh,
                source=interval.rate.intensity.source,
                fallback=interval.rate.fallback,
            )
            for interval in intervals
        ]
        if changed
        else [],
    )


def _known(ledger: Ledger, state: State) -> Sequence[float] | None:
    """Return a device's joules by bucket, or None if none of the run's are known."""
    return None if ledger.published is None else ledger.published.known_at(state.now, state.totals)


def _device(ledger: Ledger, state: State, known: Sequence[float] | None) -> DeviceRecord:
    device = ledger.device
    period = ledger.period_s
    return DeviceRecord(
        id=device.id,
        name=device.name,
        kind=device.kind,
        backend=device.backend,
        method=device.method,
        provenance=device.provenance,
        relative_uncertainty=ledger.relative_uncertainty,
        update_period_s=device.update_period_s if period is None else period,
        joules=None if known is None else sum(known) - known[OUTSIDE],
        missing_s=ledger.finder.missing_at(state.now) / NS_PER_S,
        note=device.note,
        refresh=ledger.regularity,
        refresh_jitter_s=ledger.jitter_s,
        cross_check=ledger.check.difference,
        shared=device.shared,
        idle_watts=state.idle_watts.get(device.id),
        latency_s=device.latency_s,
        latency_source=device.latency_source,
    )


def _beside(ledger: Ledger, state: State) -> BesideRecord:
    known = _known(ledger, state)
    stages: dict[str, float] = {}
    if known is not None:
        stages = {tally.name: sum(tally.by_phase(known).values()) for tally in state.tallies}
    return BesideRecord(**asdict(_device(ledger, state, known)), stages=stages)


@dataclass(frozen=True, slots=True)
class _Division:
    """Energy of a stage, divided.

    Attributes:
        phases: That of each phase, by device.
        buckets: That of each bucket, by device.
        coincides: Whether all refreshes of a device see the same mix of phases.
        unknown: Whether a device reports its power as a mean over a time that is unknown.
    """

    phases: Mapping[Phase, Mapping[_Name, Split]]
    buckets: Mapping[int, Mapping[_Name, Split]]
    coincides: bool
    unknown: bool

    def of(self, buckets: Sequence[int]) -> Mapping[_Name, Split]:
        """Return the energy of several buckets together, by device."""
        names = self.buckets[buckets[0]]
        return {name: add_splits([self.buckets[bucket][name] for bucket in buckets]) for name in names}


def _stage(
    tally: Tally, state: State, joules: _Joules, devices: Sequence[DeviceRecord], amounts: Amounts | None
) -> StageRecord:
    division = _divide(tally, state, joules)
    record = _stage_record(tally, state, joules, division.phases, division, devices, amounts)
    if tally.name == "train" and state.parts_reason is not None:
        for phase in record.phases.keys() & {"compute", "step"}:
            record.phases[phase].parts_reason = state.parts_reason
    elif tally.parts and "compute" in record.phases:
        record.phases["compute"].parts = _parts(tally, state, division)
    ran = [part for part in tally.substages if any(part.by_phase(state.totals).values())]
    if ran:
        joules, amounts = _refined(tally, joules, amounts, division)
    for part in ran:
        phases = {phase: division.of(part.buckets_of(phase)) for phase in part.buckets}
        own = part.name.partition("/")[2]
        record.substages[own] = _stage_record(part, state, joules, phases, division, devices, amounts)
    return record


def _divide(tally: Tally, state: State, joules: _Joules) -> _Division:
    """Divide the energy of a stage among its phases, and that of each phase among its buckets."""
    buckets = [tally.buckets_of(phase) for phase in tally.buckets]
    seconds = [[value_at(state.totals, bucket) / NS_PER_S for bucket in each] for each in buckets]
    phases: dict[Phase, dict[_Name, Split]] = {phase: {} for phase in tally.buckets}
    single: dict[int, dict[_Name, Split]] = {bucket: {} for each in buckets for bucket in each}
    for ledger, known in joules.values():
        name = ledger.device.backend, ledger.device.id
        used = [[value_at(known, bucket) for bucket in each] for each in buckets]
        found = ledger.split(tally.group, buckets, seconds, used, state.idle_watts.get(ledger.device.id))
        for phase, each, (whole, parts) in zip(tally.buckets, buckets, found, strict=True):
            phases[phase][name] = whole
            for bucket, part in zip(each, parts, strict=True):
                single[bucket][name] = part
    batches = tally.count(state.counts).batches
    cycle = sum(map(sum, seconds)) / batches if batches else 0.0
    ledgers = [ledger for ledger, _ in joules.values()]
    return _Division(
        phases,
        single,
        coincides=any(_coincide(ledger.period_s, cycle) for ledger in ledgers),
        unknown=any(each.device.method == "power_integration" and each.device.power_window_s is None for each in ledgers),
    )


def _refined(tally: Tally, joules: _Joules, amounts: Amounts | None, division: _Division) -> tuple[_Joules, Amounts | None]:
    """Return the energy by bucket, with emissions and cost, where that of a stage is divided as in its record."""
    length = 1 + max(division.buckets)
    refined = {}
    for name, (ledger, known) in joules.items():
        own = [value_at(known, bucket) for bucket in range(length)]
        for bucket, splits in division.buckets.items():
            own[bucket] = splits[ledger.device.backend, name].joules
        refined[name] = ledger, own
    before, after = (
        [sum(value_at(known, bucket) for _, known in each.values()) for bucket in range(length)] for each in (joules, refined)
    )

    def refine(values: Sequence[float] | None) -> Sequence[float] | None:
        if values is None:
            return None
        whole, energy = (sum(tally.by_phase(each).values()) for each in (values, before))
        found = [0.0] * length
        for bucket in division.buckets:
            per_joule = value_at(values, bucket) / before[bucket] if before[bucket] > 0 else ratio(whole, energy) or 0.0
            found[bucket] = per_joule * after[bucket]
        scale = ratio(whole, sum(found)) or 0.0
        return [scale * value for value in found]

    return refined, None if amounts is None else Amounts(refine(amounts.grams), refine(amounts.cost))


def _stage_record(
    tally: Tally,
    state: State,
    joules: _Joules,
    splits: Mapping[Phase, Mapping[_Name, Split]],
    division: _Division,
    devices: Sequence[DeviceRecord],
    amounts: Amounts | None,
) -> StageRecord:
    """Return the record of a stage, or of a sub-stage, whose phases are divided like this."""
    counts = tally.count(state.counts)
    seconds = {phase: time / NS_PER_S for phase, time in tally.by_phase(state.totals).items()}
    shares = {name: tally.by_phase(known) for name, (_, known) in joules.items()}
    used = {name: sum(share.values()) for name, share in shares.items()}
    whole = {phase: sum(share[phase] for share in shares.values()) for phase in seconds} if shares else None
    energy = stage_energy(whole, seconds, used, state.idle_watts)
    whole_stage = sum(time > 0 for time in seconds.values()) == 1 and tally.parent is None
    return stage_record(
        seconds=sum(seconds.values()),
        batches=counts.batches,
        samples=counts.known_samples,
        compiled=counts.compiled,
        tokens=counts.known_tokens,
        compiled_tokens=counts.compiled_tokens,
        sampled_joules=energy.sampled_joules,
        above_idle_joules=energy.above_idle_joules,
        latency=latency_record(reduce(Quantiles.plus, [state.latencies.get(group) for group in tally.groups], Quantiles())),
        phases=explain_single_step(
            {
                phase: _phase(splits[phase], time, division, whole_stage=whole_stage)
                for phase, time in seconds.items()
                if time > 0
            }
        ),
        devices=used,
        records=devices,
        co2e_grams=None if amounts is None or amounts.grams is None else sum(tally.by_phase(amounts.grams).values()),
        cost=None if amounts is None or amounts.cost is None else sum(tally.by_phase(amounts.cost).values()),
        flops=state.flops.get(tally.name),
    )


def _parts(tally: Tally, state: State, division: _Division) -> dict[str, PhaseRecord]:
    """Return the parts of a stage's batches, and what is left of ``compute``."""
    own = set(tally.parts.values())
    buckets: dict[str, Sequence[int]] = {part: [tally.parts[part]] for part in PARTS if part in tally.parts}
    buckets["other"] = [bucket for bucket in tally.buckets_of("compute") if bucket not in own]
    seconds = {part: sum(value_at(state.totals, bucket) for bucket in each) / NS_PER_S for part, each in buckets.items()}
    return {part: _phase(division.of(buckets[part]), time, division) for part, time in seconds.items() if time > 0}


def latency_record(times: Quantiles | None) -> LatencyRecord | None:
    """Return the quantiles of times in ns; None if there are no times."""
    if times is None or not times.count:
        return None
    p50, p95, p99 = (times.at(share) / NS_PER_S for share in (0.5, 0.95, 0.99))
    return LatencyRecord(batches=times.count, p50_s=p50, p95_s=p95, p99_s=p99)


def _coincide(period_s: float | None, cycle_s: float) -> bool:
    """Return whether batches take as long as a refresh or half of one, so that all refreshes see the same mix of phases."""
    return period_s is not None and any(abs(cycle_s * count / period_s - 1) <= _NEARLY for count in (1, 2))


def _phase(splits: Mapping[_Name, Split], seconds: float, division: _Division, *, whole_stage: bool = False) -> PhaseRecord:
    """Return the energy of a phase from that on each device."""
    if not splits:
        return PhaseRecord(joules=None, seconds=seconds, relative_uncertainty=None, reason="No device was read.")
    found = combine(splits)
    joules, low, high, half = found.joules, found.low, found.high, found.half_width
    # Of a whole stage, nothing was divided. 0 J are known, too, where the whole stage is known to have used none.
    if whole_stage or half <= WIDEST * joules:
        return PhaseRecord(
            joules=joules,
            seconds=seconds,
            relative_uncertainty=half / joules if joules > 0 else None if half else 0.0,
            low_joules=low,
            high_joules=high,
        )
    if division.unknown and not found.resolved:
        reason = _NO_WINDOW
    elif division.coincides:
        reason = coincidence(low, high)
    elif not found.resolved:
        reason = (
            "The phases cannot be separated: too few refreshes of the counter, or nearly the same mix of phases in all of them."
        )
    else:
        reason = "The phases cannot be separated well enough: the 95 % interval is wider than ±50 %."
    return PhaseRecord(joules=None, seconds=seconds, relative_uncertainty=None, reason=reason, low_joules=low, high_joules=high)


def combine(splits: Mapping[_Name, Split]) -> Split:
    """Return the energy of a phase on all devices from that on each."""
    joules = sum(split.joules for split in splits.values())
    low = joules - _error({name: split.joules - split.low for name, split in splits.items()}, splits)
    high = joules + _error({name: split.high - split.joules for name, split in splits.items()}, splits)
    return Split(joules, low, high, resolved=all(split.resolved for split in splits.values()))


def _error(errors: Mapping[_Name, float], splits: Mapping[_Name, Split]) -> float:
    """Return the error of a sum over devices, from their errors in J.

    Devices of one backend are late by the same time and have the same marks, so their errors add up; those of different
    backends are independent. What could not be separated is between two bounds, which add up.
    """
    fitted = errors_by_backend((name[0], error) for name, error in errors.items() if splits[name].resolved)
    return hypot(*fitted.values()) + sum(error for name, error in errors.items() if not splits[name].resolved)
