"""Runs at the same time that each count the whole machine; pure."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from ml_energy_callbacks.fleet.audit.findings import OWN, AuditedRun, Finding, Severity
from ml_energy_callbacks.fleet.audit.fingerprints import same_machines
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.quantities import quantity, scaled

_LEAST_S = 1.0
_TOGETHER = 0.8
"""Share of the longer run in which processes of one job run together."""

_PARTLY = 0.1
"""Share of the shorter run in which the energy of both is counted twice, and that matters."""

_COUNTED = "Several runs count the same hardware at the same time."
_ONE = (
    "Do not add them up. For a job, measure once on each host (the callbacks do; with codecarbon, on the host's first rank "
    "alone); for runs that share a machine, scope='process' estimates the share of each."
)


def find_counted_several_times(runs: Sequence[AuditedRun]) -> Iterator[Finding]:
    """Yield runs of one tool that each count all of the same devices."""
    ids = {run.record.run.id for run in runs}
    places: dict[tuple[object, ...], list[AuditedRun]] = defaultdict(list)
    for run in runs:
        if run.seconds >= _LEAST_S and run.record.run.within not in ids:
            for place in _places(run):
                places[place].append(run)
    shared: dict[tuple[str, ...], tuple[list[AuditedRun], bool, list[str]]] = {}
    for place, same in places.items():
        for group, together in _groups(same):
            key = tuple(run.name for run in group)
            shared.setdefault(key, (group, together, []))[2].append(str(place[-1]))
    for group, together, devices in shared.values():
        yield from _several(group, devices, together=together)


def _places(run: AuditedRun) -> Iterator[tuple[object, ...]]:
    """Yield what tells a run's hardware from all other: its devices with their host, or where a log has none, all of them."""
    if run.cells.get("tracking_mode") == "process":
        return
    record = run.record
    hosts = {device: node.hostname for node in record.nodes for device in node.devices}
    known = [device for device in record.devices if device.joules]
    if _hosts(record):
        for device in known:
            host = hosts.get(device.id, ", ".join(_hosts(record)))
            yield (run.tool, "" if device.id.startswith("nvml:GPU-") else host, device.id)
    elif len(known) > 1 and run.tool != OWN:
        machine = tuple((device.id, device.name, device.count) for device in known)
        yield (run.tool, machine, run.cells.get("ram_total_size"), "the machine")


def _hosts(record: RunRecord) -> list[str]:
    """Return the names of its hosts; the name that each machine has for itself is none."""
    return [name for name in record.run.hostnames if name.partition(".")[0] != "localhost"]


def _groups(runs: Sequence[AuditedRun]) -> Iterator[tuple[list[AuditedRun], bool]]:
    """Yield runs that ran together, and pairs of those that did so for a part of the time."""
    groups: list[list[AuditedRun]] = []
    for run in sorted(runs, key=lambda run: run.began):
        yield from ((group, True) for group in groups if group[0].ended <= run.began and len(group) > 1)
        groups = [group for group in groups if group[0].ended > run.began]
        home = next((group for group in groups if _together(group[0], run)), None)
        if home is not None:
            home.append(run)
            continue
        for group in groups:
            if group[0].overlap(run) > _PARTLY * min(group[0].seconds, run.seconds):
                yield [group[0], run], False
        groups.append([run])
    yield from ((group, True) for group in groups if len(group) > 1)


def _together(a: AuditedRun, b: AuditedRun) -> bool:
    return a.overlap(b) >= _TOGETHER * max(a.seconds, b.seconds)


def _several(group: Sequence[AuditedRun], devices: Sequence[str], *, together: bool) -> Iterator[Finding]:
    """Yield the finding about runs that share hardware; of logs without hosts, only where their figures show it."""
    if _hosts(group[0].record):
        yield _counted(group, devices, "wrong" if together else "doubtful")
    elif together:
        for machine in same_machines(group):
            agreement = f" Their figures agree ({machine.told}), as those of several machines do not."
            yield _counted(machine.runs, machine.devices, machine.severity, agreement)


def _counted(group: Sequence[AuditedRun], devices: Sequence[str], severity: Severity, agreement: str = "") -> Finding:
    joules = [run.record.total.joules or 0.0 for run in group]
    common = min(group[0].overlap(run) for run in group[1:])
    return Finding(
        check="counted-several-times",
        severity=severity,
        runs=[run.name for run in group],
        what=_COUNTED,
        evidence=(
            f"{len(group)} runs with {quantity(common)} s in common each have the energy of {', '.join(devices)}; their totals "
            f"are {scaled(min(joules), 'J')} to {scaled(max(joules), 'J')}, {scaled(sum(joules), 'J')} in all.{agreement}"
        ),
        advice=_ONE,
    )
