"""GPUs whose energy was averaged instead of added up, or is missing; pure."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ml_energy_callbacks.fleet.audit.findings import OWN, AuditedRun, Finding, Severity
from ml_energy_callbacks.fleet.audit.plausible import DIGITS, LONG_S, least_gpu_watts
from ml_energy_callbacks.fleet.imports import codecarbon
from ml_energy_callbacks.report.quantities import quantity

_ENOUGH_J = 100.0
"""Counters of 1 mJ to 1 J that agree to the last digit do not agree by chance from here on."""

_BUSY = 50.0
"""Utilisation in percent from which on the clocks of a card stay up."""

_ROUNDING = 1e-3
_AVERAGED = "The energies of GPUs were averaged instead of added up."
_NOT_ALL = "The energy is less than all GPUs use: a mean, or that of some of them."
_ADD_UP = "Find out whose energy it is; for all GPUs it is too low by up to their number. Measure each GPU, and add them up."
_LEFT_OUT = "The energy of a GPU is missing."


def find_averages(run: AuditedRun) -> Iterator[Finding]:
    """Yield energies of several GPUs that are a mean, or in a log may be."""
    if fault := _equal(run) or _mean_as_total(run):
        yield run.finding("gpus-averaged", "wrong", _AVERAGED, fault, _ADD_UP)
    elif fault := _too_little(run):
        # codecarbon counts all GPUs of the machine, also where gpu_ids limits it to some of them.
        severity: Severity = "doubtful" if run.tool == codecarbon.TOOL else "wrong"
        yield run.finding("gpus-averaged", severity, _NOT_ALL, fault, _ADD_UP)


def _equal(run: AuditedRun) -> str | None:
    """Return how GPUs agree to the last digit, as copies of one mean do."""
    known = sorted((device.joules, device.id) for device in run.of_kind("gpu") if device.joules and device.joules > _ENOUGH_J)
    for (first, one), (second, other) in pairwise(known):
        if second - first <= DIGITS * second:
            return f"{one} and {other} both have {first!r} J; two counters do not agree to the last digit."
    return None


def _mean_as_total(run: AuditedRun) -> str | None:
    """Return how the total has the mean of the GPUs in the place of their sum."""
    total = run.record.total.joules
    cards = [device.joules for device in run.of_kind("gpu") if device.joules]
    rest = sum(device.joules or 0.0 for device in run.record.devices if device.kind != "gpu")
    if total is None or len(cards) < 2 or run.tool != OWN:  # noqa: PLR2004 - a mean of one is its sum
        return None
    mean = sum(cards) / len(cards)
    if abs(total - (mean + rest)) > _ROUNDING * mean:
        return None
    return (
        f"The total of {quantity(total)} J has the mean of {len(cards)} GPUs, {quantity(mean)} J; their sum is "
        f"{quantity(sum(cards))} J."
    )


def _too_little(run: AuditedRun) -> str | None:
    """Return how a figure for several GPUs is less than what they draw without any work, or with their clocks up."""
    load = run.number("gpu_utilization_percent") or 0.0
    for device in run.of_kind("gpu"):
        least = least_gpu_watts(device.name, busy=load >= _BUSY)
        if device.count < 2 or not device.joules or least is None or run.seconds < LONG_S:  # noqa: PLR2004 - as above
            continue
        watts = device.joules / run.seconds
        if watts < least * device.count:
            work = f"at {load:g} % load" if load >= _BUSY else "idle"
            return (
                f"{device.id}: {quantity(watts)} W for {device.count} GPUs ({device.name}) are "
                f"{quantity(watts / device.count)} W each, and one draws {quantity(least)} W at least {work}."
            )
    return None


def find_missing(run: AuditedRun) -> Iterator[Finding]:
    """Yield GPUs that a run has, and whose energy it has not."""
    if run.seconds < LONG_S:
        return
    for device in run.of_kind("gpu"):
        if device.joules is None or (device.joules == 0 and run.tool != OWN):
            count = f"{device.count} GPUs" if device.count > 1 else "a GPU"
            has = "no energy" if device.joules is None else "0 J"
            yield run.finding(
                "gpu-missing",
                "wrong" if run.tool != OWN else "doubtful",  # a record of our own says that its total is a lower bound
                _LEFT_OUT,
                f"{device.id} is {count} ({device.name}) with {has} in {quantity(run.seconds)} s.",
                "Give the tool access to the driver (ml-energy doctor shows why); the total is a lower bound.",
            )


def find_missing_beside(runs: Sequence[AuditedRun]) -> Iterator[Finding]:
    """Yield runs without a GPU whose model had one on the same host in other runs."""
    alike: dict[tuple[str, ...], list[AuditedRun]] = defaultdict(list)
    for run in runs:
        facts = run.record.run
        if run.tool == OWN and facts.model is not None and facts.hostnames and "devices" not in facts.options:
            alike[facts.model, *facts.hostnames].append(run)
    for (model, *hosts), same in alike.items():
        having = [run for run in same if run.of_kind("gpu")]
        for run in same:
            if having and not run.of_kind("gpu"):
                cards = ", ".join(device.id for device in having[0].of_kind("gpu"))
                yield run.finding(
                    "gpu-missing",
                    "doubtful",
                    _LEFT_OUT,
                    f"{len(having)} of {len(same)} runs of {model} on {', '.join(hosts)} have {cards}; this one has no GPU.",
                    "If it ran on the GPU, its energy is too low: look for a warning of NVML in its log; else set devices=.",
                )
