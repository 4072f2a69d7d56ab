"""The results of a profile and of a comparison: data classes, written as JSON by ``record.load.dump_json``."""

from types import ModuleType
from typing import Any, Literal

import msgspec

from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.record.schema import LatencyRecord

State = Literal["measured", "undecided", "failed", "out_of_memory"]
"""Whether the requested width was reached, the time limit came first, the call raised an error, or memory ran out."""

Verdict = Literal["less", "more", "no difference", "undecided"]
"""How the energy of two compares; ``undecided`` if the measurement is too noisy or too short."""


class Interval(msgspec.Struct, kw_only=True):
    """A mean with its statistical uncertainty.

    Attributes:
        mean: Mean of the repeats.
        half_width: Half-width of its 95 % interval by Student's t, in the unit of the mean; None for a single repeat.
    """

    mean: float
    half_width: float | None


class Difference(msgspec.Struct, kw_only=True):
    """Difference in the energy of a sample between two batch sizes or models.

    Attributes:
        a: The first of the two.
        b: The second.
        relative: Joules per sample of ``b`` divided by those of ``a``, minus 1. The devices' own uncertainty is the same in
            both and cancels.
        half_width: Half-width of its 95 % interval, for this pair only.
        p_value: p-value of the paired t-test, adjusted for the number of pairs by Holm's method.
        verdict: ``less`` or ``more``: the energy of ``b`` compared with ``a``; ``no difference`` if the difference is within
            the noise and the noise is at most twice the requested ``relative_width``; else ``undecided``.
    """

    a: str
    b: str
    relative: float
    half_width: float
    p_value: float
    verdict: Verdict


class Cost(msgspec.Struct, kw_only=True):
    """Energy, throughput and latency of a prediction.

    Attributes:
        joules_per_sample: Energy of a sample in J; None without a device, or if nothing was measured.
        joules_per_sample_above_idle: The same without idle power, in J; the interval includes that of the idle power.
        wh_per_1000_samples: ``joules_per_sample.mean`` in Wh per 1000 samples, or None.
        samples_per_second: Throughput of consecutive calls; None if nothing was measured.
        latency: Latency of one call, where ``batches`` counts calls; None if nothing was measured.
        repeats: Number of measured blocks of calls.
        state: How the measurement ended.
        note: One sentence on why it is not ``measured``; else None.
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
    """The results for one batch size; ``latency`` is that of a whole batch."""

    batch_size: int


class ModelCost(Cost, kw_only=True):
    """The results for one model.

    Attributes:
        name: The given name.
        accuracy: The metric of its outputs, higher is better; None if the model failed.
        size_bytes: Size of the saved model in bytes; None for a plain callable, or if it cannot be saved.
        pareto: False if another model is at least as accurate and provably uses less energy, True if provably none does. None
            if that is undecided, energy or accuracy is unknown, or the model raised an error.
    """

    name: str
    accuracy: float | None
    size_bytes: int | None
    pareto: bool | None


class Findings(msgspec.Struct, kw_only=True):
    """What all results of one measurement have in common.

    Attributes:
        idle_watts: Power of the devices before the first call, in W; None if no device reports it.
        relative_uncertainty: Half-width of the 95 % interval of the devices' own systematic uncertainty, as a share of all
            joules; no other interval here includes it. None if no device was read.
        provenance: ``measured`` if every device was, else ``estimated``; None if no device was read.
        devices: Ids of the devices that are included.
        relative_width: Requested half-width of the 95 % interval of joules per sample, as a fraction.
        seconds: Duration in s.
        warnings: Warnings of the meter.
    """

    idle_watts: Interval | None
    relative_uncertainty: float | None
    provenance: Provenance | None
    devices: list[str]
    relative_width: float
    seconds: float
    warnings: list[str]

    def _repr_html_(self) -> str:
        html: str = _in_notebooks().findings_html(self)
        return html

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain dictionaries, lists, texts and numbers."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        return facts

    def to_frame(self) -> Any:  # noqa: ANN401 - of pandas or polars
        """Return the batch sizes, models or lengths as rows of a data frame of pandas or polars.

        Raises:
            ConfigurationError: Neither is installed.
        """
        return _in_notebooks().findings_frame(self)

    def plot(self) -> Any:  # noqa: ANN401 - report.notebook.Picture
        """Return pictures of the result, which a notebook shows."""
        return _in_notebooks().plot_findings(self)


class Profile(Findings, kw_only=True):
    """Energy of a prediction at each batch size.

    Attributes:
        sizes: The results by batch size, in the given order.
        differences: One for each pair of batch sizes.
        latency_limit_s: Longest acceptable p95 latency in s, or None.
        best: The batch size with the lowest energy per sample within the latency limit; None if there is none, if another one
            could use less, or if the energy is unknown.
        alike: Other batch sizes within the limit whose energy does not differ from the best one's: ``no difference``.
        candidates: If the best one is undecided: the one with the lowest mean, and those that could use less.
    """

    sizes: list[BatchCost]
    differences: list[Difference]
    latency_limit_s: float | None
    best: int | None
    alike: list[int]
    candidates: list[int]


class Comparison(Findings, kw_only=True):
    """Energy and accuracy of the predictions of several models.

    Attributes:
        models: The results by model, in the given order.
        differences: One for each pair of models.
    """

    models: list[ModelCost]
    differences: list[Difference]


def _in_notebooks() -> ModuleType:
    """Return the module that shows results, which uses this one; importing a result imports none of it."""
    from ml_energy_callbacks.inference import notebook  # noqa: PLC0415 - see above

    return notebook
