"""Whether runs in logs that name no host were on one machine, as their figures agree better than those of several; pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ml_energy_callbacks.backends.cpu_model import find_tdp
from ml_energy_callbacks.fleet.audit.findings import AuditedRun, Severity
from ml_energy_callbacks.fleet.imports import codecarbon
from ml_energy_callbacks.record.schema import DeviceRecord

_ALIKE = 0.003
"""Spread of what processes read off the same hardware in the same time, as a share; several machines differ by more."""

_VARIED = 3.0
"""GPUs of a run differ among themselves by so many times that, or a cap sets their power, on each machine the same."""

_LOADS = (25.0, 95.0)
"""Loads in percent between which codecarbon's model of a processor shows them; it has 10 % of the TDP below, all above."""

_LEVELS = (0.1, 0.5, 1.0)
_LEVEL = 0.02
"""Powers that this model sets, as shares of the TDP, and how far one of a measurement is from them."""

_MEMORY = "memory in use"
_MANY = 4
"""Runs of which no figure agrees by chance."""


@dataclass(frozen=True, slots=True)
class SameMachine:
    """Runs that were on one machine.

    Attributes:
        runs: The runs.
        devices: Ids of the devices that each of them counts.
        severity: ``wrong``, or ``doubtful`` where one power agrees, or the memory of few runs.
        told: What agrees, and how well.
    """

    runs: Sequence[AuditedRun]
    devices: Sequence[str]
    severity: Severity
    told: str


def same_machines(runs: Sequence[AuditedRun]) -> Iterator[SameMachine]:
    """Yield those of runs at one time that were on one machine; none if one of them agrees with no other."""
    machines: list[list[AuditedRun]] = [list(runs)] if _agree(runs) else []
    for run in [] if machines else runs:
        home = next((machine for machine in machines if _agree([machine[0], run])), None)
        if home is None:
            machines.append([run])
        else:
            home.append(run)
    if any(len(machine) == 1 for machine in machines):  # of many machines, some pairs agree by chance
        return
    for machine in machines:
        alike = _agree(machine)
        if alike:
            told = ", ".join(f"{name} within {spread:.2%}".replace("%", " %") for name, spread in alike.items())
            shared = [
                device.id
                for device in machine[0].record.devices
                if device.id in alike or (_MEMORY in alike and device.kind != "gpu")
            ]
            sure = len(alike) > 1 or (_MEMORY in alike and len(machine) >= _MANY)
            yield SameMachine(machine, shared, "wrong" if sure else "doubtful", told)


def _agree(runs: Sequence[AuditedRun]) -> Mapping[str, float]:
    """Return the figures that agree with their spreads; none unless they show one machine.

    The memory in use has to agree, where it is known. Powers of GPUs need not, as each process may count its own. Of few runs,
    more figures have to agree than do not; of many, none does by chance.
    """
    apart = max(1 - runs[0].overlap(run) / max(runs[0].seconds, run.seconds) for run in runs)
    limit = _ALIKE + apart
    spreads = _spreads(runs, limit)
    alike = {name: spread for name, spread in spreads.items() if spread <= limit}
    if _MEMORY in spreads and _MEMORY not in alike:
        return {}
    return alike if len(runs) >= _MANY or 2 * len(alike) > len(spreads) else {}


def _spreads(runs: Sequence[AuditedRun], limit: float) -> Mapping[str, float]:
    """Return how far figures of runs are apart, as a share: powers of devices that were not set, and the memory in use."""
    figures: dict[str, list[float]] = {}
    watts = [{device.id: (device.joules or 0.0) / run.seconds for device in run.record.devices} for run in runs]
    cards = [watts[0][device.id] for device in runs[0].of_kind("gpu")]
    capped = len(cards) > 1 and _spread(cards) < _VARIED * limit
    for device in runs[0].record.devices:
        if not (capped if device.kind == "gpu" else any(_is_set(run, device, watts[0][device.id]) for run in runs)):
            figures[device.id] = [power.get(device.id, 0.0) for power in watts]
    memory = [run.number("ram_used_gb") for run in runs]
    figures[_MEMORY] = [used for used in memory if used is not None]
    return {name: _spread(values) for name, values in figures.items() if len(values) == len(runs) and min(values) > 0}


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / max(values)


def _is_set(run: AuditedRun, device: DeviceRecord, watts: float) -> bool:
    """Return whether codecarbon may have set the power of a processor or memory by a constant, which shows no machine."""
    if run.tool != codecarbon.TOOL:
        return False
    load = run.number("cpu_utilization_percent")
    if device.kind == "dram" or (load is not None and not _LOADS[0] < load < _LOADS[1]):
        return True
    known = find_tdp(device.name)
    if known is None:
        return load is None
    return any(abs(watts / known[1] - level) < _LEVEL * level for level in _LEVELS)
