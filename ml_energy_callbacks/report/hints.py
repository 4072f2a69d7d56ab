"""Hints on how to save energy, from the run's own measurements; pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from ml_energy_callbacks.record.schema import DeviceRecord, RunRecord, StageRecord
from ml_energy_callbacks.report.quantities import quantity, rounded_down, scaled

_LEAST_WAITING = 0.1
_LEAST_COMPILING = 0.1
_LEAST_VALIDATING = 0.25
_IDLE = 0.4
"""A GPU has a low load if it draws less than this share of the power of the busiest one."""
_NEARLY_ALL = 0.95
"""A device counts as measured all the time if it was measured for this share of the time."""

_WAITING_STAGES = ("train", "validate", "test", "predict")
_SERVING_STAGES = ("test", "predict")
"""In a plain loop, these stages may be waiting for requests, which more workers do not speed up."""


@dataclass(frozen=True, slots=True)
class Hint:
    """How a run could have saved energy.

    Attributes:
        text: One sentence: what used the energy, what to do, and how much that may save.
        joules: Energy at stake in J; of a phase, the least that it used, with the uncertainty of the devices.
        share: The share that the sentence states: of the energy of the stage, of training for a hint on validation, of the
            run for a hint on devices.
        short: What could be saved and by what, in a few words: ``27 J avoidable (more workers)``.
        stage: The stage that it is about; None for the run.
        phase: The phase that it is about; None for a stage or the run.
    """

    text: str
    joules: float
    share: float
    short: str
    stage: str | None = None
    phase: str | None = None


def find_hints(record: RunRecord) -> list[Hint]:
    """Return hints on how to save energy, the largest saving first; only those that the measurements support.

    A phase gives a hint if the lower bound of its share is above the threshold: 10 % for waiting and compiling. Validation
    gives one above 25 % of the energy of training, and a GPU if the upper end of its power's interval is below 40 % of the
    lower end of that of the busiest GPU of the same name. In a plain loop, ``test`` and ``predict`` may be waiting for requests
    instead of data, and give no hint.
    """
    found = [*_waiting_hints(record), *_compiling_hints(record), *_validation_hints(record), *_gpu_hints(record)]
    return sorted(found, key=lambda hint: -hint.joules)


def _waiting_hints(record: RunRecord) -> Iterator[Hint]:
    for name in _WAITING_STAGES:
        if record.run.framework == "none" and name in _SERVING_STAGES:
            continue
        if (found := _phase_above(record, name, "data_wait", _LEAST_WAITING)) is not None:
            joules, share = found
            used = f"Waiting for data used at least {_percent(rounded_down(share, 0.01), record)} of the energy of {name}"
            saved = scaled(rounded_down(joules), "J")
            short = f"{saved} avoidable (more workers)"
            yield Hint(f"{used}: more workers or caching could save {saved}.", joules, share, short, name, "data_wait")


def _compiling_hints(record: RunRecord) -> Iterator[Hint]:
    if (found := _phase_above(record, "train", "compile", _LEAST_COMPILING)) is not None:
        joules, share = found
        used = f"Compilation used at least {_percent(rounded_down(share, 0.01), record)} of the energy of train"
        advice = "continuing in the same process, or a cache of compiled programs (such as jax_compilation_cache_dir),"
        saved = scaled(rounded_down(joules), "J")
        short = f"{saved} avoidable (cache of compiled programs)"
        yield Hint(f"{used}: {advice} could save {saved}.", joules, share, short, "train", "compile")


def _phase_above(record: RunRecord, stage_name: str, name: str, least: float) -> tuple[float, float] | None:
    """Return the least that a phase used in J and as a share of the stage, if that is above a threshold; else None.

    Both are the lower end of the 95 % interval of the split. The joules also include the uncertainty of the devices. In the
    share, the error of a sensor cancels, which is the same in all phases; that of a power model depends on the load.
    """
    stage = record.stages.get(stage_name)
    phase = None if stage is None else stage.phases.get(name)
    if stage is None or phase is None or not stage.joules or not _separates_phases(record, stage):
        return None
    low = 0.0 if phase.interval is None else phase.interval[0]
    if low <= 0:
        return None
    doubt = min(1.0, stage.relative_uncertainty or 0.0)
    joules, share = low * (1 - doubt), low / stage.joules
    if stage.provenance == "estimated":
        share = joules / (joules + max(0.0, stage.joules - low) * (1 + doubt))
    return (joules, share) if share > least else None


def _separates_phases(record: RunRecord, stage: StageRecord) -> bool:
    """Return whether a device of the stage can separate phases: the memory model assumes constant power, so it cannot."""
    return any(device.id in stage.devices and (device.method, device.kind) != ("model", "dram") for device in record.devices)


def _validation_hints(record: RunRecord) -> Iterator[Hint]:
    train, validate = (record.stages.get(name) for name in ("train", "validate"))
    if train is None or validate is None or not train.joules or not validate.joules:
        return
    # The same devices measure both, so their uncertainty cancels in the share.
    share = validate.joules / train.joules
    if share > _LEAST_VALIDATING:
        used = f"Validation used {_percent(share, record)} as much energy as training"
        saved = scaled(validate.joules, "J")
        text = f"{used}: validating less often, or on fewer samples, would save up to {saved}."
        yield Hint(text, validate.joules, share, f"up to {saved} avoidable (validate less often)", "validate")


def _gpu_hints(record: RunRecord) -> Iterator[Hint]:
    """Return hints on GPUs whose load was certainly low, compared with the busiest one of the same name."""
    if len(record.run.hostnames) > max(1, len(record.nodes)):
        return  # the run was resumed on another host, so no device was measured all the time
    partly_measured = _partly_measured(record)
    watts = {device.id: mean for device in record.devices if (mean := _watts(device, record.total.seconds)) is not None}
    known = [device for device in record.devices if device.id in watts and device.id not in partly_measured]
    for name in dict.fromkeys(device.name for device in known):
        peers = [device for device in known if device.name == name]
        busiest = max(peers, key=lambda peer: watts[peer.id])
        if any(peer.relative_uncertainty is None for peer in peers):
            continue
        limit = _IDLE * watts[busiest.id] * (1 - (busiest.relative_uncertainty or 0.0))
        idle = [device for device in peers if watts[device.id] * (1 + (device.relative_uncertainty or 0.0)) < limit]
        if not idle or not record.total.joules:
            continue
        joules = sum(device.joules or 0.0 for device in idle)
        share = joules / record.total.joules
        names = ", ".join(f"{device.id} ({quantity(watts[device.id], 'W')})" for device in idle)
        used = f"GPUs with a low load used {_percent(share, record)} of the energy: {names}"
        compared = f"compared with {quantity(watts[busiest.id], 'W')} of {busiest.id}"
        saved = scaled(joules, "J")
        text = f"{used}, {compared}; using or freeing them would save up to {saved}."
        count = f"{len(idle)} of {len(peers)} GPUs nearly idle"
        yield Hint(text, joules, share, f"{count}: up to {saved} avoidable")


def _partly_measured(record: RunRecord) -> set[str]:
    """Return the devices that were not measured all the time, so that their mean power cannot be compared.

    Examples are GPUs that were used for training but not for a test, and those of a process that died.
    """
    longest = max((rank.seconds for rank in record.ranks), default=0.0)
    lost = {device for rank in record.ranks if rank.seconds < _NEARLY_ALL * longest for device in rank.devices}
    long = [stage for stage in record.stages.values() if stage.seconds > (1 - _NEARLY_ALL) * record.total.seconds]
    return lost | {device.id for device in record.devices if not all(stage.devices.get(device.id) for stage in long)}


def _watts(device: DeviceRecord, seconds: float) -> float | None:
    """Return the mean power of a GPU over the time for which its energy is known."""
    known_s = seconds if device.method == "energy_counter" else seconds - (device.missing_s or 0.0)
    return device.joules / known_s if device.kind == "gpu" and device.joules is not None and known_s > 0 else None


def _percent(share: float, record: RunRecord) -> str:
    estimated = " (estimated)" if record.total.provenance == "estimated" else ""
    return f"{share * 100:.0f} %{estimated}"
