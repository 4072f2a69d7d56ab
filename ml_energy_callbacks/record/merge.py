"""Sums of records, pure: of a run that went on after an interruption, and of the processes of one job."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from msgspec.structs import replace

from ml_energy_callbacks.attribution.split import WIDEST
from ml_energy_callbacks.metrics import PARTS, PHASES, add_up, all_named, known_sum
from ml_energy_callbacks.record.build import (
    add_flops,
    explain_single_step,
    mixture,
    process_record,
    recorded_energy,
    stage_record,
    sum_reason,
    total_record,
    weighted_mean,
)
from ml_energy_callbacks.record.epochs import divide_epochs, sum_parts
from ml_energy_callbacks.record.power import join_power
from ml_energy_callbacks.record.schema import (
    BesideRecord,
    CarbonRecord,
    DeviceRecord,
    EpochRecord,
    IntervalRecord,
    NodeRecord,
    Part,
    PhaseRecord,
    ProcessRecord,
    RankRecord,
    RawReadings,
    RunRecord,
    StageRecord,
    Status,
    every_stage,
)

MERGE_ADVICE: Final = "`ml-energy merge` adds up the files that they leave."
"""Ends the warnings of a process that does not have the final figures of the others."""

_UNENDED: Final = "The process was killed, or goes on: its figures are those of its last report."


def add_records(earlier: RunRecord, later: RunRecord) -> RunRecord:
    """Return the record of a run that was interrupted and went on: stages, devices and time add up.

    Grams and cost of both parts are those that each was measured with. The later part's settings stand.
    """
    all_devices = _add_devices([*earlier.devices, *later.devices])
    stages = _add_all_stages(earlier.stages, later.stages, all_devices)
    total = total_record(stages, all_devices, later.total.currency, incomplete=earlier.lower_bound or later.lower_bound)
    warnings = list(dict.fromkeys([*earlier.warnings, *later.warnings]))
    if earlier.total.currency != total.currency and earlier.total.cost is not None:
        total.cost = None
        for _, stage in every_stage(stages):
            stage.cost = None
        warnings.append(f"The run started in {earlier.total.currency} and continued in {total.currency}: its cost is unknown.")
    return RunRecord(
        run=replace(
            later.run,
            id=earlier.run.id,
            started_at=earlier.run.started_at,
            hostnames=list(dict.fromkeys([*earlier.run.hostnames, *later.run.hostnames])),
            within=later.run.within if earlier.run.within is not None else None,
        ),
        devices=all_devices,
        stages=stages,
        epochs=[*earlier.epochs, *(_later_epoch(epoch, earlier.total.seconds) for epoch in later.epochs)],
        total=total,
        carbon=_add_carbon([earlier, later], [earlier.carbon.embodied_grams, later.carbon.embodied_grams]),
        warnings=warnings,
        whole_machine=_add_besides([*earlier.whole_machine, *later.whole_machine]),
        process=_add_processes(earlier.process, later.process),
        forecast=later.forecast,
        early_stopping=later.early_stopping or earlier.early_stopping,
        ranks=later.ranks,
        nodes=later.nodes,
        power=join_power(earlier.power, later.power, earlier.total.seconds),
        raw_readings=_all_readings([earlier, later]),
    )


def _all_readings(records: Sequence[RunRecord]) -> list[RawReadings]:
    """Return the raw readings of all parts of a run; empty where no part kept any."""
    if not any(record.raw_readings for record in records):
        return []
    return [each for record in records for each in _part_readings(record)]


def _part_readings(record: RunRecord) -> list[RawReadings]:
    """Return the raw readings of a part of a run, which are not those of its figures where it has not ended."""
    if not record.raw_readings:
        return [RawReadings(rank=None if record.part is None else record.part.rank, reason="No raw readings were kept.")]
    if record.run.status != "running":
        return record.raw_readings
    return [replace(each, reason=each.reason or _UNENDED) for each in record.raw_readings]


def _later_epoch(epoch: EpochRecord, seconds: float) -> EpochRecord:
    """Return an epoch of a part before which the run took so many seconds."""
    return epoch if epoch.started_s is None else replace(epoch, started_s=round(epoch.started_s + seconds, 3))


def _add_carbon(records: Sequence[RunRecord], embodied: Sequence[float | None]) -> CarbonRecord:
    """Return the carbon part of several records together, with the settings of the last one and all locations.

    As in each of them, the grams are the energy times the PUE times the intensity.
    """
    last = records[-1].carbon
    parts = [record for record in records if record.total.joules] or records[-1:]
    each = [record.carbon for record in parts]
    known = [record.total.joules or 0.0 for record in parts]
    pue = weighted_mean([carbon.pue for carbon in each], known)
    energies = [joules * carbon.pue for joules, carbon in zip(known, each, strict=True)]
    grams = [record.total.co2e_grams or 0.0 for record in parts]
    changed = len({carbon.intensity_g_per_kwh for carbon in each}) > 1
    return replace(
        last,
        intensity_g_per_kwh=weighted_mean([carbon.intensity_g_per_kwh for carbon in each], energies),
        location=all_named(carbon.location for carbon in each),
        note=all_named(carbon.note for carbon in each),
        **mixture(each, energies, grams),
        assumed_share=weighted_mean([carbon.assumed_share for carbon in each], grams),
        fallback_share=weighted_mean([carbon.fallback_share for carbon in each], grams),
        pue=pue,
        intervals=[
            interval
            for record in records
            for interval in record.carbon.intervals or (_single_interval(record) if changed and record.total.joules else [])
        ],
        water_litres=known_sum([record.carbon.water_litres for record in records]),
        embodied_grams=known_sum(embodied),
    )


def _single_interval(record: RunRecord) -> list[IntervalRecord]:
    """Return the one interval of a record with one intensity."""
    return [
        IntervalRecord(
            began=record.run.started_at,
            ended=record.run.ended_at or record.run.started_at,
            joules=record.total.joules or 0.0,
            intensity_g_per_kwh=record.carbon.intensity_g_per_kwh,
            source=record.carbon.source,
        )
    ]


_AnyDevice = TypeVar("_AnyDevice", bound=DeviceRecord)


def _add_devices(parts: Iterable[_AnyDevice]) -> list[_AnyDevice]:
    """Return each device once, with the sums of its parts."""
    devices: dict[str, _AnyDevice] = {}
    for device in parts:
        before = devices.get(device.id)
        devices[device.id] = device
        if before is not None:
            known = [before.joules or 0.0, device.joules or 0.0]
            errors = [before.relative_uncertainty, device.relative_uncertainty]
            doubt = device.relative_uncertainty
            if sum(known):
                doubt = known_sum([None if share is None else share * own for share, own in zip(errors, known, strict=True)])
                doubt = None if doubt is None else doubt / sum(known)
            devices[device.id] = replace(
                device,
                relative_uncertainty=doubt,
                joules=known_sum([before.joules, device.joules]),
                missing_s=known_sum([before.missing_s, device.missing_s]),
            )
    return list(devices.values())


def _add_besides(parts: Sequence[BesideRecord]) -> list[BesideRecord]:
    stages: dict[str, list[dict[str, float]]] = defaultdict(list)
    for device in parts:
        stages[device.id].append(device.stages)
    return [replace(device, stages=add_up(stages[device.id])) for device in _add_devices(parts)]


def _add_processes(earlier: ProcessRecord | None, later: ProcessRecord | None) -> ProcessRecord | None:
    if earlier is None or later is None:
        return None  # a part whose share is not known makes the whole's unknown
    return process_record(_add_besides([*earlier.devices, *later.devices]), later.unknown)


def _add_all_stages(
    earlier: Mapping[str, StageRecord], later: Mapping[str, StageRecord], devices: Sequence[DeviceRecord]
) -> dict[str, StageRecord]:
    """Return the sums of stages, or of sub-stages, by name."""
    stages = dict(earlier)
    for name, stage in later.items():
        stages[name] = _add_stages(stages[name], stage, devices) if name in stages else stage
    return stages


def _add_stages(a: StageRecord, b: StageRecord, devices: Sequence[DeviceRecord]) -> StageRecord:
    # What is unknown of one part is unknown of both.
    known = a.joules is not None and b.joules is not None
    names = [*a.devices, *(name for name in b.devices if name not in a.devices)] if known else []
    energies = [recorded_energy(stage) for stage in (a, b)]
    return stage_record(
        seconds=a.seconds + b.seconds,
        batches=a.batches + b.batches,
        **_counts([a, b]),
        sampled_joules=known_sum([each.sampled_joules for each in energies]),
        above_idle_joules=known_sum([each.above_idle_joules for each in energies]),
        latency=None if a.latency is not None and b.latency is not None else a.latency or b.latency,
        phases=explain_single_step(
            {
                phase: _add_phases([(stage.phases[phase], stage.joules) for stage in (a, b) if phase in stage.phases])
                for phase in PHASES
                if phase in a.phases or phase in b.phases
            }
        ),
        devices={name: a.devices.get(name, 0.0) + b.devices.get(name, 0.0) for name in names},
        records=devices,
        co2e_grams=known_sum([a.co2e_grams, b.co2e_grams]),
        cost=known_sum([a.cost, b.cost]),
        substages=_add_all_stages(a.substages, b.substages, devices),
    )


def _counts(stages: Sequence[StageRecord]) -> dict[str, Any]:
    """Return the samples, tokens and FLOPs of parts of a stage; those that are unknown of one with batches are so of all."""
    worked = [stage for stage in stages if stage.batches or stage.samples or stage.tokens]
    return {
        "samples": known_sum([stage.samples for stage in worked]) or None,
        "compiled": sum(stage.compile_samples for stage in stages),
        "tokens": known_sum([stage.tokens for stage in worked]) or None,
        "compiled_tokens": sum(stage.compile_tokens for stage in stages),
        "flops": add_flops([(stage.flops, stage.samples) for stage in worked]),
    }


def _add_phases(parts: Sequence[tuple[PhaseRecord, float | None]]) -> PhaseRecord:
    """Return the sum of parts of a phase; it is an estimate where all parts have one, or the interval is narrow enough for one.

    Their intervals add up: it is the same device or the same kind of device, whose latency is off to the same side. A part
    that is known as an interval counts with the middle of it.

    Args:
        parts: The parts, each with the energy of its stage in J, or None.
    """
    phases, ranges = [phase for phase, _ in parts], [_range(phase, whole) for phase, whole in parts]
    low, high = (known_sum([None if each is None else each[end] for each in ranges]) for end in (0, 1))
    middles = [sum(each) / 2 if each is not None else None for each in ranges]
    joules = known_sum(
        [middle if phase.joules is None else phase.joules for phase, middle in zip(phases, middles, strict=True)]
    )
    half = 0.0 if joules is None or low is None or high is None else max(high - joules, joules - low)
    parts_of, parts_reason = _add_parts(phases)
    if any(phase.joules is None for phase in phases) and not (joules is not None and joules > 0 and half <= WIDEST * joules):
        joules = None
    return PhaseRecord(
        joules=joules,
        seconds=known_sum([phase.seconds for phase in phases]),
        relative_uncertainty=half / joules if joules else None if joules is None or half else 0.0,
        reason=None if joules is not None else sum_reason(next(p.reason for p in phases if p.joules is None), low, high),
        low_joules=low,
        high_joules=high,
        parts=parts_of,
        parts_reason=parts_reason,
    )


def _add_parts(phases: Sequence[PhaseRecord]) -> tuple[dict[str, PhaseRecord], str | None]:
    """Return the sums of what the batches of several runs or processes are divided into, and why there are none."""
    divided = [phase for phase in phases if phase.parts]
    if not divided:
        return {}, next((phase.parts_reason for phase in phases if phase.parts_reason is not None), None)
    if any(phase.seconds for phase in phases if not phase.parts):
        return {}, _SOME_DIVIDED
    names = [name for name in (*PARTS, "other") if any(name in phase.parts for phase in divided)]
    return {name: _add_phases([(phase.parts[name], None) for phase in divided if name in phase.parts]) for name in names}, None


def _range(phase: PhaseRecord, whole: float | None) -> tuple[float, float] | None:
    """Return the interval of a phase; of a record of an earlier release, by its uncertainty or by its stage's energy in J."""
    if phase.low_joules is not None and phase.high_joules is not None:
        return phase.low_joules, phase.high_joules
    if phase.joules is None:
        return None if whole is None else (0.0, whole)
    half = phase.joules * (phase.relative_uncertainty or 0.0)
    return phase.joules - half, phase.joules + half


class _Member(NamedTuple):
    part: Part
    record: RunRecord


def _member(record: RunRecord) -> _Member:
    if record.part is None:
        msg = f"The record of run {record.run.id} is not that of one process of a job."
        raise ValueError(msg)
    return _Member(record.part, record)


def merge_records(records: Sequence[RunRecord]) -> RunRecord:
    """Return the record of a job from those of its processes.

    They worked side by side: energy, batches and samples add up, and the time is that of the process that ran longest. A device
    belongs to the one process that measured it. Of several hosts, each device's id ends with ``@`` and its host's name.

    Args:
        records: The record of each process; ranks without one are listed as missing.

    Raises:
        ValueError: There is none, or one is not of one process.
    """
    members = sorted(map(_member, map(divide_epochs, records)), key=lambda member: member.part.rank)
    if not members:
        msg = "There is no record of a job's processes."
        raise ValueError(msg)
    hosts = list(dict.fromkeys(member.part.host for member in members))
    names = _host_names(members, hosts)
    if len(hosts) > 1:
        members = [_rename_devices(member, f"@{names[member.part.host]}") for member in members]
    records = [member.record for member in members]
    counted = [record for record in records if record.devices] or records[:1]
    longest = max(records, key=lambda record: record.total.seconds)
    devices = _add_devices(device for record in counted for device in record.devices)
    stages = _merge_stages([(record.stages, bool(record.devices)) for record in records], longest.stages, devices)
    first = records[0]
    leaders = [next(member.record for member in members if member.part.host == host) for host in hosts]
    carbon = _add_carbon([*counted[1:], counted[0]], [record.carbon.embodied_grams for record in leaders])
    carbon.intervals.sort(key=lambda interval: interval.began)
    reported = {member.part.rank for member in members}
    missing = [rank for rank in range(first.run.world_size) if rank not in reported]
    status, reason = _job_status(members, missing)
    merged = RunRecord(
        run=replace(
            first.run,
            status=status,
            reason=reason,
            hostnames=[names[host] for host in hosts],
            missing_ranks=missing,
        ),
        devices=devices,
        stages=stages,
        epochs=_merge_epochs(records),
        total=total_record(
            stages,
            devices,
            first.total.currency,
            incomplete=bool(missing) or any(record.lower_bound for record in records),
        ),
        carbon=carbon,
        warnings=list(dict.fromkeys(warning for record in records for warning in record.warnings)),
        whole_machine=_add_besides([device for record in counted for device in record.whole_machine]),
        process=_merge_process_shares([record.process for record in counted]),
        forecast=first.forecast,
        early_stopping=first.early_stopping,
        power={name: series for record in counted for name, series in record.power.items()},
        raw_readings=_all_readings(records),
        ranks=_ranks(members, hosts, devices),
        nodes=[
            NodeRecord(
                hostname=names[host],
                ranks=[member.part.rank for member in members if member.part.host == host],
                devices=[device.id for device in here],
                joules=known_sum([device.joules for device in here]),
            )
            for host in hosts
            for here in [
                _add_devices(device for member in members if member.part.host == host for device in member.record.devices)
            ]
        ],
    )
    earlier = members[0].part.earlier
    return merged if earlier is None else add_records(earlier, merged)


def _host_names(members: Sequence[_Member], hosts: Sequence[str]) -> dict[str, str]:
    """Return a name for each host; of several that call themselves the same, each later one has a number."""
    names: dict[str, str] = {}
    for host in hosts:
        hostname = next(member.part.hostname for member in members if member.part.host == host)
        same = sum(name.partition("#")[0] == hostname for name in names.values())
        names[host] = f"{hostname}#{same + 1}" if same else hostname
    return names


_AnyDeviceRecord = TypeVar("_AnyDeviceRecord", bound=DeviceRecord)


def _rename_devices(member: _Member, suffix: str) -> _Member:
    """Return a part whose devices' ids say on which host they are."""

    def named(devices: Sequence[_AnyDeviceRecord]) -> list[_AnyDeviceRecord]:
        return [replace(device, id=device.id + suffix) for device in devices]

    part, record, process = member.part, member.record, member.record.process
    return _Member(
        replace(part, uses=[name + suffix for name in part.uses]),
        replace(
            record,
            devices=named(record.devices),
            whole_machine=named(record.whole_machine),
            process=process
            and replace(
                process,
                devices=named(process.devices),
                unknown={name + suffix: reason for name, reason in process.unknown.items()},
            ),
            stages=_rename_in(record.stages, suffix),
            epochs=[
                replace(epoch, devices={device + suffix: joules for device, joules in epoch.devices.items()})
                for epoch in record.epochs
            ],
            power={name + suffix: series for name, series in record.power.items()},
        ),
    )


def _rename_in(stages: Mapping[str, StageRecord], suffix: str) -> dict[str, StageRecord]:
    return {
        name: replace(
            stage,
            devices={device + suffix: joules for device, joules in stage.devices.items()},
            substages=_rename_in(stage.substages, suffix),
        )
        for name, stage in stages.items()
    }


def _merge_stages(
    members: Sequence[tuple[Mapping[str, StageRecord], bool]],
    longest: Mapping[str, StageRecord],
    devices: Sequence[DeviceRecord],
) -> dict[str, StageRecord]:
    """Return the stages of a job, or the sub-stages of one of them, by name.

    Args:
        members: The stages of each process, and whether it measures devices.
        longest: The stages of the process that ran longest.
        devices: The devices of the job.
    """
    return {
        name: _merge_stage(
            [(stages[name], measures) for stages, measures in members if name in stages], longest.get(name), devices
        )
        for name in dict.fromkeys(name for stages in (longest, *(stages for stages, _ in members)) for name in stages)
    }


def _merge_stage(
    members: Sequence[tuple[StageRecord, bool]], timed: StageRecord | None, devices: Sequence[DeviceRecord]
) -> StageRecord:
    """Return a stage of a job from those of its processes that had it; the time is that of ``timed``, if that is not None."""
    stages = [stage for stage, _ in members]
    counted = [stage for stage, measures in members if measures]
    timed = timed or max(stages, key=lambda stage: stage.seconds)
    latencies = [stage.latency for stage in stages if stage.latency is not None]
    energies = [recorded_energy(stage) for stage in counted]
    return stage_record(
        seconds=timed.seconds,
        batches=sum(stage.batches for stage in stages),
        **_counts(stages),
        sampled_joules=known_sum([each.sampled_joules for each in energies]),
        above_idle_joules=known_sum([each.above_idle_joules for each in energies]),
        latency=latencies[0] if len(latencies) == 1 else None,
        phases=explain_single_step(
            {
                phase: _merge_phase(
                    [(stage.phases[phase], stage.joules) for stage in counted if phase in stage.phases], timed.phases.get(phase)
                )
                for phase in PHASES
                if any(phase in stage.phases and stage.phases[phase].seconds is not None for stage in stages)
            }
        ),
        devices=add_up([stage.devices for stage in counted]),
        records=devices,
        co2e_grams=known_sum([stage.co2e_grams for stage in counted]),
        cost=known_sum([stage.cost for stage in counted]),
        substages=_merge_stages([(stage.substages, measures) for stage, measures in members], timed.substages, devices),
    )


def _merge_phase(parts: Sequence[tuple[PhaseRecord, float | None]], timed: PhaseRecord | None) -> PhaseRecord:
    """Return a phase of a job: the energy of all processes that measure, in the time of the one that ran longest."""
    unmeasured = PhaseRecord(joules=None, seconds=0.0, relative_uncertainty=None, reason=_UNMEASURED)
    summed = _add_phases(parts or [(unmeasured, None)])
    there = {} if timed is None else timed.parts
    own = {name: replace(part, seconds=there[name].seconds if name in there else 0.0) for name, part in summed.parts.items()}
    return replace(summed, seconds=0.0 if timed is None else timed.seconds, parts=own)


_UNMEASURED = "No device was read."
_SOME_DIVIDED = "The batches of some of the runs or processes were not divided into parts."


def _merge_epochs(records: Sequence[RunRecord]) -> list[EpochRecord]:
    """Return the epochs of a job; a figure that is unknown in one process is unknown for the job."""
    keyed = [dict(_keyed(record.epochs)) for record in records]
    counts = [bool(record.devices) for record in records]
    merged = []
    for key, epoch in {key: epoch for each in reversed(keyed) for key, epoch in each.items()}.items():
        found = [each.get(key) for each in keyed]
        counted = [one for one, measures in zip(found, counts, strict=True) if measures]
        there = [one for one in found if one is not None]
        merged.append(
            replace(
                epoch,
                joules=known_sum([one and one.joules for one in counted]),
                sampling_joules=known_sum([one and one.sampling_joules for one in counted]),
                seconds=max(one.seconds for one in there),
                samples=known_sum([one and one.samples for one in found]),
                tokens=known_sum([one and one.tokens for one in found]),
                co2e_grams=known_sum([one and one.co2e_grams for one in counted]),
                started_s=min((one.started_s for one in there if one.started_s is not None), default=None),
                devices=sum_parts([(one.devices, one.joules) for one in counted if one is not None]),
                phases=sum_parts([(one.phases, one.joules) for one in counted if one is not None]),
                phase_seconds=max(there, key=lambda one: one.seconds).phase_seconds,
                metrics={name: value for one in reversed(there) for name, value in one.metrics.items()},
            )
        )
    return merged


def _keyed(epochs: Sequence[EpochRecord]) -> Iterator[tuple[tuple[str, int, int, int], EpochRecord]]:
    """Yield each epoch with what it is known by in all processes of a job."""
    seen: dict[tuple[str, int, int], int] = defaultdict(int)
    for epoch in epochs:
        key = (epoch.stage, epoch.index, epoch.epochs)
        yield (*key, seen[key]), epoch
        seen[key] += 1


def _merge_process_shares(each: Sequence[ProcessRecord | None]) -> ProcessRecord | None:
    known = [process for process in each if process is not None]
    if not known or len(known) < len(each):
        return None
    unknown = {name: reason for process in known for name, reason in process.unknown.items()}
    return process_record(_add_besides([device for process in known for device in process.devices]), unknown)


def _ranks(members: Sequence[_Member], hosts: Sequence[str], devices: Sequence[DeviceRecord]) -> list[RankRecord]:
    joules = {device.id: device.joules for device in devices if device.joules is not None}
    users = Counter(name for part, _ in members for name in part.uses)
    ranks = []
    for part, record in members:
        stages = record.stages.values()
        shares = [joules[name] / users[name] for name in part.uses if name in joules]
        ranks.append(
            RankRecord(
                rank=part.rank,
                node=hosts.index(part.host),
                status=record.run.status,
                seconds=record.total.seconds,
                batches=sum(stage.batches for stage in stages),
                samples=known_sum([stage.samples for stage in stages if stage.batches]),
                tokens=known_sum([stage.tokens for stage in stages if stage.batches]),
                devices=part.uses,
                joules=sum(shares) if shares else None,
                compute_seconds=_phase_seconds(stages, "compute"),
                data_wait_seconds=_phase_seconds(stages, "data_wait"),
                barrier_seconds=part.barrier_seconds,
                barrier_joules=part.barrier_joules,
            )
        )
    return ranks


def _phase_seconds(stages: Iterable[StageRecord], phase: str) -> float:
    return sum(stage.phases[phase].seconds or 0.0 for stage in stages if phase in stage.phases)


def _job_status(members: Sequence[_Member], missing: Sequence[int]) -> tuple[Status, str | None]:
    """Return how a job ended, and why: as rank 0 did, unless others failed, stopped reporting or reported no data."""
    run = members[0].record.run
    failed = [(part.rank, record.run.reason) for part, record in members if record.run.status == "failed"]
    if failed and run.status != "failed":
        return "failed", f"Rank {failed[0][0]}: {failed[0][1]}"
    if run.status == "completed":
        silent = [part.rank for part, record in members if record.run.status == "running"]
        lost = [
            f"{_named(silent)} stopped reporting" if silent else "",
            f"{_named(missing)} reported no data" if missing else "",
        ]
        why = " and ".join(filter(None, lost))
        if why:
            return "failed", f"{why[0].upper()}{why[1:]}."
    return run.status, run.reason


def _named(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
