"""Floating-point operations (FLOPs) of the samples of each stage, from those of a sample; pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from ml_energy_callbacks.attribution.timeline import Counts
from ml_energy_callbacks.carbon.numbers import plain_number
from ml_energy_callbacks.metrics import STAGES, is_positive, known_sum
from ml_energy_callbacks.record.build import add_flops
from ml_energy_callbacks.record.schema import FlopsRecord

GIVEN: Final = "given"
"""Method of the FLOPs of a sample that the user gave."""

_MOST_FLOPS = 1e20
"""Some million times those of a sample of the largest models."""

_PerSample = tuple[float, str]
"""FLOPs of a sample, and how they are known."""


class StageFlops:
    """The FLOPs of a sample in each stage, which another start of the meter may change, as for another model.

    Args:
        given: FLOPs of a training sample as the user gave them, or those of a sample in each stage by its name, or None.
    """

    def __init__(self, given: float | Mapping[str, float] | None) -> None:
        """Begin with what the user gave."""
        by_stage = given if isinstance(given, Mapping) else {} if given is None else {"train": given}
        self._given: Mapping[str, _PerSample] = {stage: (plain_number(flops), GIVEN) for stage, flops in by_stage.items()}
        # Where each start began in a stage, and the FLOPs of a sample from then on.
        self._starts: dict[str, list[tuple[Counts, _PerSample | None]]] = {
            stage: [(Counts(), self._given.get(stage))] for stage in STAGES
        }

    def knows(self, stage: str) -> bool:
        """Return whether the FLOPs of a sample of a stage are known since the last start."""
        return self._starts[stage][-1][1] is not None

    def begin(self, counts: Mapping[str, Counts]) -> None:
        """Begin another start of the meter, with what the user gave.

        Args:
            counts: Batches and samples so far of each stage that ran.
        """
        for stage, starts in self._starts.items():
            begun = counts.get(stage, Counts())
            kept = [start for start in starts if _place(start[0]) < _place(begun)]
            if len(kept) > 1 and kept[-1][1] == kept[-2][1]:  # so that they do not become more with each start
                kept.pop()
            self._starts[stage] = [*kept, (begun, self._given.get(stage))]

    def learn(self, stage: str, flops: float, method: str) -> None:
        """Set the FLOPs of each sample of a stage since the last start.

        Args:
            stage: The stage.
            flops: The FLOPs.
            method: How they are known.
        """
        *before, (begun, _) = self._starts[stage]
        self._starts[stage] = [*before, (begun, (flops, method))]

    def record(self, stage: str, until: Counts) -> FlopsRecord | None:
        """Return the FLOPs of a stage up to these batches and samples; None where those of a part are unknown."""
        return add_flops(
            [
                (per_sample and _record(*per_sample, part.known_samples), part.known_samples)
                for per_sample, part in self._parts(stage, Counts(), until)
            ]
        )

    def between(self, stage: str, since: Counts, until: Counts) -> float | None:
        """Return the FLOPs of the samples between two states of a stage, without those during compilation; None if unknown."""
        parts = [
            None if per_sample is None or part.known_samples is None else per_sample[0] * (part.samples - part.compiled)
            for per_sample, part in self._parts(stage, since, until)
        ]
        return known_sum(parts) or None  # all of them may have passed during compilation

    def _parts(self, stage: str, since: Counts, until: Counts) -> Iterator[tuple[_PerSample | None, Counts]]:
        """Yield the parts of a stage between two of its states with FLOPs of their own, as far as they have batches."""
        starts = self._starts.get(stage, [(Counts(), None)])
        ends = [*(begun for begun, _ in starts[1:]), until]
        for (begun, per_sample), ended in zip(starts, ends, strict=True):
            first, last = max(begun, since, key=_place), min(ended, until, key=_place)
            if _place(first) < _place(last):
                yield per_sample, last.since(first)


def is_flops_per_sample(value: object) -> bool:
    """Return whether a value of the user's is the FLOPs of a sample, those of a sample in each stage, or None."""
    if isinstance(value, Mapping):
        return all(stage in STAGES and is_count_of_flops(flops) for stage, flops in value.items())
    return value is None or is_count_of_flops(value)


def is_count_of_flops(value: object) -> bool:
    """Return whether a value may be the FLOPs of a sample."""
    return is_positive(value) and 1 <= plain_number(value) <= _MOST_FLOPS


def _place(counts: Counts) -> tuple[int, int]:
    """Return what tells of two states of a stage which one is the later."""
    return counts.batches, counts.samples


def _record(flops: float, method: str, samples: int | None) -> FlopsRecord:
    return FlopsRecord(total=None if samples is None else flops * samples, per_sample=flops, method=method)
