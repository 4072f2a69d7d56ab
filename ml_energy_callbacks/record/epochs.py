"""The epochs of a record: one more, metrics of one, sums of several, and fewer of many; pure."""

from collections.abc import Collection, Mapping, Sequence
from copy import copy

from msgspec.structs import replace

from ml_energy_callbacks.metrics import add_up, known_sum
from ml_energy_callbacks.record.schema import EpochRecord, RunRecord

_MOST_EPOCHS = 2048
"""Most epochs that a process remembers. It does not depend on their content, so that all processes of a job merge the same."""

_MOST_BYTES = 750_000
"""Most bytes of the epochs in a file: the record is rewritten all the time, and stays below a megabyte."""

_EPOCH_BYTES, _FIGURE_BYTES = 310, 22
"""About how much of a file is an epoch without its figures by name, and such a figure without its name."""

_LOOKED_AT = 64

_MISSING = 1e-4
"""Figures that differ from their sum by less than this share of it are complete, and others are zero."""


def add_epoch(epochs: Sequence[EpochRecord], epoch: EpochRecord) -> list[EpochRecord]:
    """Return the epochs with one more.

    Of too many, each two consecutive ones of a stage are merged; what is unknown of one is unknown of both.
    """
    return [*epochs, epoch] if len(epochs) < _MOST_EPOCHS else [*_merge_pairs(epochs), epoch]


def add_metrics(epochs: Sequence[EpochRecord], stage: str, metrics: Mapping[str, float]) -> list[EpochRecord]:
    """Return the epochs with metrics added to the last one of a stage; the same ones if there is none."""
    found = list(epochs)
    place = next((place for place in reversed(range(len(found))) if found[place].stage == stage), None)
    if place is not None:
        found[place] = replace(found[place], metrics=found[place].metrics | brief(metrics))
    return found


def divide_epochs(record: RunRecord) -> RunRecord:
    """Return the record with the energy of each epoch divided among its phases, by their mean power in its stage x time.

    That is the power of the last fit: while the first epochs ran, there was none. Phases of unknown power are absent.
    """
    watts = {
        name: {
            phase: max(0.0, found.joules) / found.seconds
            for phase, found in stage.phases.items()
            if found.joules is not None and found.seconds
        }
        for name, stage in record.stages.items()
    }
    return replace(record, epochs=[_divided(epoch, watts.get(epoch.stage) or {}) for epoch in record.epochs])


def _divided(epoch: EpochRecord, watts: Mapping[str, float]) -> EpochRecord:
    """Return an epoch with the energy of each phase whose power (W) is known; if all are known, they add up to the epoch's."""
    phases = {phase: watts[phase] * max(0.0, seconds) for phase, seconds in epoch.phase_seconds.items() if phase in watts}
    used, whole = sum(phases.values()), epoch.joules
    if whole is None or not used > 0:
        return epoch
    if len(phases) == len(epoch.phase_seconds):
        phases = {phase: joules * whole / used for phase, joules in phases.items()}
    return replace(epoch, phases=brief(phases))


def limit_epochs(epochs: Sequence[EpochRecord], most_bytes: float = _MOST_BYTES) -> list[EpochRecord]:
    """Return the epochs as a file holds them: of too many bytes, each two consecutive ones of a stage are merged."""
    found = list(epochs)
    while _bytes(found) > most_bytes and len(found) > len({epoch.stage for epoch in found}):
        found = _merge_pairs(found)
    return found


def _bytes(epochs: Sequence[EpochRecord]) -> float:
    """Return about how much of a file the epochs are, by some of them."""
    some = epochs[:: len(epochs) // _LOOKED_AT * 2 + 1]  # an odd number, as stages take turns
    # The energy of phases is divided only when a record is built.
    sizes = [
        _EPOCH_BYTES
        + sum(
            len(name) + _FIGURE_BYTES
            for figures in (each.devices, each.phase_seconds, each.phase_seconds, each.metrics)
            for name in figures
        )
        for each in some
    ]
    return sum(sizes) / len(sizes) * len(epochs) if sizes else 0.0


def _merge_pairs(epochs: Sequence[EpochRecord]) -> list[EpochRecord]:
    """Return the epochs with each two consecutive ones of a stage as one: their sums, and the last values of their metrics."""
    merged: list[EpochRecord] = []
    waiting: dict[str, EpochRecord] = {}
    for epoch in epochs:
        first = waiting.pop(epoch.stage, None)
        if first is None:
            waiting[epoch.stage] = first = copy(epoch)
            merged.append(first)
            continue
        both = [first, epoch]
        first.devices, first.phases, first.phase_seconds = (
            sum_parts([(each.devices, each.joules) for each in both]),
            sum_parts([(each.phases, each.joules) for each in both]),
            sum_parts([(each.phase_seconds, each.seconds) for each in both]),
        )
        first.metrics = first.metrics | epoch.metrics
        first.joules = known_sum([first.joules, epoch.joules])
        first.sampling_joules = known_sum([first.sampling_joules, epoch.sampling_joules])
        first.seconds += epoch.seconds
        first.samples = known_sum([first.samples, epoch.samples])
        first.tokens = known_sum([first.tokens, epoch.tokens])
        first.co2e_grams = known_sum([first.co2e_grams, epoch.co2e_grams])
        first.epochs += epoch.epochs
    return merged


def sum_parts(parts: Collection[tuple[Mapping[str, float], float | None]]) -> dict[str, float]:
    """Return the sums of figures by their names.

    A name that is absent is zero where the figures are complete, and else unknown, as then in the sum.

    Args:
        parts: Figures by their names, each with what they add up to where they are complete.
    """
    unknown: set[str] = set()
    for figures, whole in parts:
        if whole is None or abs(sum(figures.values()) - whole) > _MISSING * abs(whole):
            unknown.update(name for others, _ in parts for name in others if name not in figures)
    return brief({name: value for name, value in add_up([dict(each) for each, _ in parts]).items() if name not in unknown})


def brief(figures: Mapping[str, float]) -> dict[str, float]:
    """Return figures with 7 digits, which is what a float of 32 bits has."""
    return {name: float(f"{value:.7g}") for name, value in figures.items()}
