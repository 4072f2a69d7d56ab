"""What a profile and a comparison tell: plain structures, written as JSON by ``records.dump_json``."""

from typing import Literal

import msgspec

from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.record.schema import LatencyRecord

State = Literal["measured", "undecided", "failed", "out_of_memory"]
"""Whether the asked width was reached, the time was over before, the call raised, or it did not fit in memory."""

Verdict = Literal["less", "more", "no difference", "undecided"]
"""How the energy of two compares; ``undecided`` is what the measurement is too noisy, or too short, to tell."""


class Interval(msgspec.Struct, kw_only=True):
    """A mean with its statistical uncertainty.

    Attributes:
        mean: Mean of the repeats.
        half_width: Half-width of its 95 % interval by Student's t, in the mean's unit; None of a single repeat.
    """

    mean: float
    half_width: float | None


class Difference(msgspec.Struct, kw_only=True):
    """How the energy of a sample differs between two of those that were measured.

    Attributes:
        a: The first of the two.
        b: The second.
        relative: Joules per sample of ``b`` over those of ``a``, less 1. The devices' own uncertainty is the same in both, and
            drops out.
        half_width: Half-width of its 95 % interval, as it would be of this pair alone.
        p_value: Of the paired t-test, adjusted for the number of pairs after Holm.
        verdict: ``less`` or ``more``: what ``b`` takes compared with ``a``; ``no difference`` where it is inside the
            noise, and that no larger than twice the asked ``relative_width``; else ``undecided``.
    """

    a: str
    b: str
    relative: float
    half_width: float
    p_value: float
    verdict: Verdict


class Cost(msgspec.Struct, kw_only=True):
    """What a prediction costs.

    Attributes:
        joules_per_sample: Energy of a sample in J; None where no device measures or estimates, or nothing was measured.
        joules_per_sample_above_idle: What is left of it without the idle power, in J; its interval holds the idle power's, too.
        wh_per_1000_samples: ``joules_per_sample.mean`` as it is often quoted, in Wh; or None.
        samples_per_second: Throughput of calls one after another; None where nothing was measured.
        latency: Of one call, its ``batches`` being calls; None where nothing was measured.
        repeats: Number of blocks of calls that were measured.
        state: How it ended.
        note: In a sentence why it is not ``measured``; else None.
    """

    joules_per_sample: Interval | None
    joules_per_sample_above_idle: Interval | None
    wh_per_1000_samples: float | None
    samples_per_second: Interval | None
    latency: LatencyRecord | None
    repeats: int
    state: State
    note: str | None


class BatchCost(Cost, kw_only=True):
    """The cost at one batch size; ``latency`` is that of a whole batch."""

    batch_size: int


class ModelCost(Cost, kw_only=True):
    """The cost of one model.

    Attributes:
        name: As it was given.
        accuracy: What the metric says of its outputs, higher is better; None where the model failed.
        size_bytes: Size of the saved model in bytes; None of a plain callable, or where it cannot be saved.
        pareto: False where another model is at least as accurate and takes provably less energy, and True where provably none
            does. None where that is undecided, energy or accuracy is not known, or the model raised.
    """

    name: str
    accuracy: float | None
    size_bytes: int | None
    pareto: bool | None


class Findings(msgspec.Struct, kw_only=True):
    """What holds for all that was measured together.

    Attributes:
        idle_watts: Power of the devices before the first call, in W; None where no device tells it.
        relative_uncertainty: Half-width of the 95 % interval of the devices' own systematic uncertainty, as a share of all
            joules; it is not part of any other interval here. None where no device was read.
        provenance: ``measured`` where every device was, else ``estimated``; None where no device was read.
        devices: Ids of the devices whose energy is counted.
        relative_width: Asked half-width of the 95 % interval of joules per sample, as a share.
        seconds: How long it took.
        differences: Of each two.
        warnings: What the user should know.
    """

    idle_watts: Interval | None
    relative_uncertainty: float | None
    provenance: Provenance | None
    devices: list[str]
    relative_width: float
    seconds: float
    differences: list[Difference]
    warnings: list[str]


class Profile(Findings, kw_only=True):
    """What a prediction costs at each batch size.

    Attributes:
        sizes: By batch size, as they were given.
        latency_limit_s: Longest latency that was asked for, in s, or None.
        best: The batch size with the least joules per sample of those whose p95 latency keeps the limit; None where there is
            none, where another one may take less, or where no energy is known.
        alike: Batch sizes that keep the limit, too, and whose energy does not differ from the best one's: ``no difference``.
        candidates: Where it is undecided which one is the best: the one with the least mean, and those that may take less.
    """

    sizes: list[BatchCost]
    latency_limit_s: float | None
    best: int | None
    alike: list[int]
    candidates: list[int]


class Comparison(Findings, kw_only=True):
    """What the predictions of several models cost, and how good they are; ``models`` are in the order that was given."""

    models: list[ModelCost]
