"""Runs at the same time: processes that each count the whole machine, and two tools that contradict each other; pure."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ml_energy_callbacks.fleet.audit.findings import OWN, AuditedRun, Finding, Severity
from ml_energy_callbacks.fleet.audit.fingerprints import same_machines
from ml_energy_callbacks.readings import Kind
from ml_energy_callbacks.record.schema import DeviceRecord, RunRecord
from ml_energy_callbacks.report.quantities import quantity, scaled

_LEAST_S = 1.0
_TOGETHER = 0.8
"""Share of the longer run in which processes of one job run together."""

_PARTLY = 0.1
"""Share of the shorter run in which the energy of both is counted twice, and that matters."""

_SAME_RUN = 0.9
"""Share of the longer one in which two tools are on one run."""

_MOST_OFFSET_S = 14 * 3600.0
"""Local times are ahead of UTC by no more."""

_MEASURED, _ESTIMATED = 0.1, 2.0
"""What is granted to a figure without an uncertainty: a share to a measured one, a factor to an estimate."""

_COUNTED = "Several runs count the same hardware at the same time."
_ONE = (
    "Do not add them up. For a job, measure once on each host (the callbacks do; with codecarbon, on the host's first rank "
    "alone); for runs that share a machine, scope='process' estimates the share of each."
)
_DISAGREE = "Two tools on one run disagree beyond their doubt."


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


def find_disagreements(runs: Sequence[AuditedRun]) -> Iterator[Finding]:
    """Yield two tools that were on one run, each as the only one of its tool, and whose intervals do not meet."""
    if len({run.tool for run in runs}) < 2:  # noqa: PLR2004 - one tool does not contradict itself here
        return
    partners: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    active: list[int] = []
    order = sorted((i for i, run in enumerate(runs) if run.seconds >= _LEAST_S), key=lambda i: runs[i].began)
    for i in order:
        active = [j for j in active if runs[j].ended + _MOST_OFFSET_S > runs[i].began]
        for j in active:
            if _on_one_run(runs[i], runs[j]):
                partners[i][runs[j].tool].append(j)
                partners[j][runs[i].tool].append(i)
        active.append(i)
    for i, tools in partners.items():
        for j, *others in tools.values():
            if i < j and not others and len(partners[j][runs[i].tool]) == 1:
                for kind in ("gpu", "cpu"):
                    yield from _disagreement(runs[i], runs[j], kind)


def _on_one_run(a: AuditedRun, b: AuditedRun) -> bool:
    hosts = set(a.record.run.hostnames), set(b.record.run.hostnames)
    return (
        a.tool != b.tool and (not all(hosts) or hosts[0] == hosts[1]) and a.overlap(b) >= _SAME_RUN * max(a.seconds, b.seconds)
    )


def _disagreement(a: AuditedRun, b: AuditedRun, kind: Kind) -> Iterator[Finding]:
    if a.record.lower_bound or b.record.lower_bound:
        return
    one, other = _power(a, kind), _power(b, kind)
    if one is None or other is None or (kind == "gpu" and one.count != other.count):
        return
    common = a.overlap(b) / max(a.seconds, b.seconds)  # in the rest of the time, either may have drawn what it wants
    if one.low * common <= other.high and other.low * common <= one.high:
        return
    yield Finding(
        check="tools-disagree",
        severity="wrong" if one.measured and other.measured else "doubtful",
        runs=[a.name, b.name],
        what=_DISAGREE,
        evidence=(
            f"{kind.upper()}: {one} by {a.tool} and {other} by {b.tool}, a factor of "
            f"{quantity(max(one.watts, other.watts) / min(one.watts, other.watts))}."
        ),
        advice="Find out what each includes (which devices, a PUE, other processes), and keep the one that measured.",
    )


@dataclass(frozen=True, slots=True)
class _Power:
    """Mean power of a kind of devices in W, with its interval."""

    watts: float
    low: float
    high: float
    count: int
    measured: bool

    def __str__(self) -> str:
        return f"{quantity(self.watts)} W ({quantity(self.low)} to {quantity(self.high)})"


def _power(run: AuditedRun, kind: Kind) -> _Power | None:
    """Return the power of the devices of a kind; None where it is not known of all."""
    devices = run.of_kind(kind)
    if not devices or not all(device.joules for device in devices):
        return None
    watts = [(device.joules or 0.0) / run.seconds for device in devices]
    ends = [_ends(device) for device in devices]
    return _Power(
        watts=sum(watts),
        low=sum(each * low for each, (low, _) in zip(watts, ends, strict=True)),
        high=sum(each * high for each, (_, high) in zip(watts, ends, strict=True)),
        count=sum(device.count for device in devices),
        measured=all(device.provenance == "measured" for device in devices),
    )


def _ends(device: DeviceRecord) -> tuple[float, float]:
    """Return the ends of a device's interval as factors of its energy."""
    known = device.relative_uncertainty
    if known is None:
        return (1 - _MEASURED, 1 + _MEASURED) if device.provenance == "measured" else (1 / _ESTIMATED, _ESTIMATED)
    return max(0.0, 1 - known), 1 + known
