"""A run record -> what would save energy, from the run's own measurements; pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from ml_energy_callbacks.record.schema import DeviceRecord, RunRecord, StageRecord
from ml_energy_callbacks.report.quantities import quantity

_LEAST_WAITING = 0.1
_LEAST_COMPILING = 0.1
_LEAST_VALIDATING = 0.25
_IDLE = 0.4
"""A GPU that draws less than this share of the busiest one's power has little to do."""
_NEARLY_ALL = 0.95
"""A device that was measured for this share of the time was there all the time."""

_WAITING_STAGES = ("train", "validate", "test", "predict")
_SERVING_STAGES = ("test", "predict")
"""In a plain loop, the waiting of these may be for requests, which no worker hastens."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What a run could have saved.

    Attributes:
        text: One sentence: what took the energy, what to do, and how much that saves at most.
        joules: Energy at stake in J.
        share: What the sentence begins with, as a share: of the stage's energy, of training's where it is about validation, and
            of the run's where it is about devices.
    """

    text: str
    joules: float
    share: float


def hints(record: RunRecord) -> list[Hint]:
    """Return what would save energy, the greatest first; none where the evidence does not carry it.

    A share of a phase counts where the lower end of its 95 % interval is above the threshold: 10 % for waiting and compiling.
    A validation counts above 25 % of the energy of training, and a GPU where the upper end of its power's interval is below
    40 % of the lower end of that of the busiest of its name. In a plain loop, the waiting of ``test`` and ``predict`` may be
    for requests as well as for data, and gives no hint.
    """
    found = [*_waiting(record), *_compiling(record), *_validating(record), *_idle_gpus(record)]
    return sorted(found, key=lambda hint: -hint.joules)


def _waiting(record: RunRecord) -> Iterator[Hint]:
    for name in _WAITING_STAGES:
        if record.run.framework == "none" and name in _SERVING_STAGES:
            continue
        if (told := _phase(record, name, "data_wait", _LEAST_WAITING)) is not None:
            joules, share = told
            went = f"{_percent(share, record)} of the energy of {name} went into waiting for data"
            yield Hint(f"{went}: more workers or caching would save up to {quantity(joules, 'J')}.", joules, share)


def _compiling(record: RunRecord) -> Iterator[Hint]:
    if (told := _phase(record, "train", "compile", _LEAST_COMPILING)) is not None:
        joules, share = told
        went = f"{_percent(share, record)} of the energy of train went into compiling"
        advice = "training on in one process, or a cache of compiled programs (such as jax_compilation_cache_dir),"
        yield Hint(f"{went}: {advice} would save up to {quantity(joules, 'J')}.", joules, share)


def _phase(record: RunRecord, stage_name: str, name: str, least: float) -> tuple[float, float] | None:
    """Return a phase's joules and its share of the stage where that is surely above a threshold."""
    stage = record.stages.get(stage_name)
    phase = None if stage is None else stage.phases.get(name)
    if stage is None or phase is None or not stage.joules or not _follows_the_work(record, stage):
        return None
    if phase.joules is None or phase.relative_uncertainty is None:
        return None
    share = phase.joules / stage.joules
    return (phase.joules, share) if share * (1 - phase.relative_uncertainty) > least else None


def _follows_the_work(record: RunRecord, stage: StageRecord) -> bool:
    """Tell whether a device of the stage can tell phases: a model of memory is of constant power, whatever happens."""
    return any(device.id in stage.devices and (device.method, device.kind) != ("model", "dram") for device in record.devices)


def _validating(record: RunRecord) -> Iterator[Hint]:
    train, validate = (record.stages.get(name) for name in ("train", "validate"))
    if train is None or validate is None or not train.joules or not validate.joules:
        return
    # The same devices measure both, so that their own doubt is in neither share.
    share = validate.joules / train.joules
    if share > _LEAST_VALIDATING:
        took = f"Validation took {_percent(share, record)} as much energy as training"
        saved = quantity(validate.joules, "J")
        yield Hint(f"{took}: validating less often, or on fewer samples, would save up to {saved}.", validate.joules, share)


def _idle_gpus(record: RunRecord) -> Iterator[Hint]:
    """Name the GPUs that surely had little to do beside another one of their name, for as long as that was measured."""
    if len(record.run.hostnames) > max(1, len(record.nodes)):
        return  # it went on elsewhere, and no device is known to have been there all the time
    brief = _brief(record)
    watts = {device.id: told for device in record.devices if (told := _watts(device, record.total.seconds)) is not None}
    known = [device for device in record.devices if device.id in watts and device.id not in brief]
    for name in dict.fromkeys(device.name for device in known):
        peers = [device for device in known if device.name == name]
        busiest = max(peers, key=lambda peer: watts[peer.id])
        limit = _IDLE * watts[busiest.id] * (1 - busiest.relative_uncertainty)
        idle = [device for device in peers if watts[device.id] * (1 + device.relative_uncertainty) < limit]
        if not idle or not record.total.joules:
            continue
        joules = sum(device.joules or 0.0 for device in idle)
        share = joules / record.total.joules
        names = ", ".join(f"{device.id} ({quantity(watts[device.id], 'W')})" for device in idle)
        went = f"{_percent(share, record)} of the energy went into {names} with little to do"
        beside = f"while {busiest.id} drew {quantity(watts[busiest.id], 'W')}"
        yield Hint(f"{went} {beside}: using or freeing them would save up to {quantity(joules, 'J')}.", joules, share)


def _brief(record: RunRecord) -> set[str]:
    """Return the devices that were not measured all the time, as their power over it tells nothing.

    Such as that of a test on one GPU of those that were trained on, or of a process that died.
    """
    longest = max((rank.seconds for rank in record.ranks), default=0.0)
    lost = {device for rank in record.ranks if rank.seconds < _NEARLY_ALL * longest for device in rank.devices}
    long = [stage for stage in record.stages.values() if stage.seconds > (1 - _NEARLY_ALL) * record.total.seconds]
    return lost | {device.id for device in record.devices if not all(stage.devices.get(device.id) for stage in long)}


def _watts(device: DeviceRecord, seconds: float) -> float | None:
    """Return a GPU's mean power over the time in which its energy was told."""
    told = seconds if device.method == "energy_counter" else seconds - device.missing_s
    return device.joules / told if device.kind == "gpu" and device.joules is not None and told > 0 else None


def _percent(share: float, record: RunRecord) -> str:
    estimated = " (estimated)" if record.total.provenance == "estimated" else ""
    return f"{share * 100:.0f} %{estimated}"
