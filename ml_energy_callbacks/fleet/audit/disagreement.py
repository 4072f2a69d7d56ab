"""Two tools on one run that contradict each other; pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ml_energy_callbacks.fleet.audit.findings import AuditedRun, Finding
from ml_energy_callbacks.readings import Kind
from ml_energy_callbacks.record.schema import DeviceRecord
from ml_energy_callbacks.report.quantities import quantity

_LEAST_S = 1.0
_SAME_RUN = 0.9
"""Share of the longer one in which two tools are on one run."""

_MOST_OFFSET_S = 14 * 3600.0
"""Local times are ahead of UTC by no more."""

_MEASURED, _ESTIMATED = 0.1, 2.0
"""What is granted to a figure without an uncertainty: a share to a measured one, a factor to an estimate."""

_COMPARED: Mapping[Kind, str] = {"gpu": "GPUs", "cpu": "Processors"}
_DISAGREE = "Two tools on one run disagree beyond their doubt."


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
                yield from _contradictions(runs[i], runs[j])


def _on_one_run(a: AuditedRun, b: AuditedRun) -> bool:
    hosts = set(a.record.run.hostnames), set(b.record.run.hostnames)
    return (
        a.tool != b.tool and (not all(hosts) or hosts[0] == hosts[1]) and a.overlap(b) >= _SAME_RUN * max(a.seconds, b.seconds)
    )


def _contradictions(a: AuditedRun, b: AuditedRun) -> Iterator[Finding]:
    """Yield where two tools contradict each other on GPUs, on processors, or where a machine used less than what is in it."""
    if a.record.lower_bound or b.record.lower_bound:
        return
    common = a.overlap(b) / max(a.seconds, b.seconds)  # in the rest of the time, either may have drawn what it wants
    for kind, name in _COMPARED.items():
        one, other = _power(a, [kind]), _power(b, [kind])
        if one is None or other is None or (kind == "gpu" and one.count != other.count):
            continue
        if one.low * common > other.high or other.low * common > one.high:
            yield _finding(a, b, one, other, f"{name}: {one} by {a.tool} and {other} by {b.tool}")
    for outer, inner in ((a, b), (b, a)):
        whole, parts = _power(outer, ["board"]), _power(inner, ["gpu", "cpu", "dram"])
        if whole is not None and parts is not None and len(outer.record.devices) == 1 and parts.low * common > whole.high:
            yield _finding(a, b, whole, parts, f"Machine: {whole} by {outer.tool}, and its parts alone {parts} by {inner.tool}")


def _finding(a: AuditedRun, b: AuditedRun, one: "_Power", other: "_Power", said: str) -> Finding:
    return Finding(
        check="tools-disagree",
        severity="wrong" if one.measured and other.measured else "doubtful",
        runs=[a.name, b.name],
        what=_DISAGREE,
        evidence=f"{said}, a factor of {quantity(max(one.watts, other.watts) / min(one.watts, other.watts))}.",
        advice="Find out what each includes (which devices, a PUE, other processes), and keep the one that measured.",
    )


@dataclass(frozen=True, slots=True)
class _Power:
    """Mean power of devices in W, with its interval."""

    watts: float
    low: float
    high: float
    count: int
    measured: bool

    def __str__(self) -> str:
        return f"{quantity(self.watts)} W ({quantity(self.low)} to {quantity(self.high)})"


def _power(run: AuditedRun, kinds: Sequence[Kind]) -> _Power | None:
    """Return the power of the devices of some kinds; None where it is not known of all."""
    devices = [device for kind in kinds for device in run.of_kind(kind)]
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
