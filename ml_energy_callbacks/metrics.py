"""Names and units of all metrics.

A name is ``energy/<stage>/<quantity>``, of a sub-stage ``energy/<stage>/<name>/<quantity>``; running totals are
``energy/total/<quantity>``. The same name with ``_step`` covers the time since the previous step log. A quantity that is
unknown has no key.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Final, Literal, TypeVar, get_args

import msgspec

OUTSIDE = 0
"""Index of the bucket that holds the time outside the run."""


# What a stage's time is spent on: ``compute``, computing a batch; ``data_wait``, waiting for the next one; ``step``, both
# together if the framework does not show them separately; ``compile``, compiling the framework's functions; ``other``:
# logging, checkpoints, set-up.
Stage = Literal["train", "validate", "test", "predict", "sanity_check", "other"]
Phase = Literal["compute", "data_wait", "step", "compile", "other"]

# What of ``compute`` is told apart on request; the rest of it is ``other``.
Part = Literal["transfer", "forward", "backward", "optimizer"]

# The emissions that a carbon intensity includes: the whole life cycle, direct emissions of power stations, both, or unknown.
Basis = Literal["lifecycle", "direct", "mixed", "unknown"]

STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
PARTS: Final[tuple[Part, ...]] = get_args(Part)

_SUBSTAGE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

JOULES_PER_KWH: Final = 3.6e6
JOULES_PER_WH: Final = 3600.0

MOST_COUNT: Final = 10**18
"""Largest number of batches, samples or tokens: more than any run has, and few enough for every format."""

STEP_SUFFIX: Final = "_step"

_Number = TypeVar("_Number", int, float)


class StageFigures(msgspec.Struct, kw_only=True):
    """Figures of a stage, or a window of it, in one process; over a job's processes all of them add up, except the time.

    Attributes:
        joules: Energy in J, or None.
        seconds: Length in s.
        sampled_joules: Energy of the samples, excluding compilation, in J, or None.
        above_idle_joules: The same without the devices' idle energy, in J, or None.
        samples: Number of samples, excluding those during compilation, or None.
        tokens: The same of tokens.
        parts: Energy of each part of the batches in J, such as ``forward``; without what is unknown or was not divided.
        compute_joules: Part of ``joules`` spent computing batches, in J, or None.
        data_wait_joules: Part of ``joules`` spent waiting for data, in J, or None.
        compute_joules_low: Lower end of the 95 % interval of ``compute_joules``, also where that is None, in J, or None.
        compute_joules_high: Its upper end.
        data_wait_joules_low: Lower end of the 95 % interval of ``data_wait_joules``, also where that is None, in J, or None.
        data_wait_joules_high: Its upper end.
        co2e_grams: Emissions in g CO2e, or None.
        cost: Cost of the electricity, or None.
        flops: FLOPs of ``samples``, or None.
        sampled_seconds: Part of ``seconds`` without compilation, in s.
        measures: Whether the process measures devices; a process without devices has no missing energy.
    """

    joules: float | None
    seconds: float
    sampled_joules: float | None
    above_idle_joules: float | None
    samples: int | None
    compute_joules: float | None
    data_wait_joules: float | None
    co2e_grams: float | None
    cost: float | None
    compute_joules_low: float | None = None
    compute_joules_high: float | None = None
    data_wait_joules_low: float | None = None
    data_wait_joules_high: float | None = None
    tokens: int | None = None
    parts: dict[str, float] = {}
    flops: float | None = None
    sampled_seconds: float = 0.0
    measures: bool = True


class TotalFigures(msgspec.Struct, kw_only=True):
    """Figures of a run in one process; they add up over a job's processes.

    Attributes:
        joules: Energy in J, or None.
        co2e_grams: Emissions in g CO2e, or None.
        cost: Cost of the electricity, or None.
        measured_joules: Part of ``joules`` that was measured, not estimated, in J.
        errors: Half-width of the 95 % interval of each backend's part of ``joules``, in J: the errors of one backend's devices
            are treated as fully correlated.
        whole_machine_joules: Energy by the meters of the whole machine in J, or None; not part of ``joules``.
        process_joules: Estimate of the job's share of ``joules``, in J, or None.
        intensity_assumed: Whether the grams are based on the world average, because no location is set.
        measures: As in :class:`StageFigures`.
        lower_bound: Whether the energy of devices that belong to the run is missing.
    """

    joules: float | None
    co2e_grams: float | None
    cost: float | None
    measured_joules: float
    errors: dict[str, float]
    whole_machine_joules: float | None
    process_joules: float | None
    intensity_assumed: bool
    measures: bool = True
    lower_bound: bool = False

    @property
    def kwh(self) -> float | None:
        """Energy in kWh, or None."""
        return None if self.joules is None else self.joules / JOULES_PER_KWH


def add_stage_figures(parts: Sequence[StageFigures]) -> StageFigures:
    """Return the figures of a job from those of its processes, which run at the same time."""
    counted = [part for part in parts if part.measures]
    return StageFigures(
        joules=known_sum([part.joules for part in counted]),
        seconds=max(part.seconds for part in parts),
        sampled_joules=known_sum([part.sampled_joules for part in counted]),
        above_idle_joules=known_sum([part.above_idle_joules for part in counted]),
        samples=known_sum([part.samples for part in parts]),
        tokens=known_sum([part.tokens for part in parts]),
        parts={name: joules for name in PARTS if (joules := known_sum([part.parts.get(name) for part in counted])) is not None},
        flops=known_sum([part.flops for part in parts]),
        sampled_seconds=max(part.sampled_seconds for part in parts),
        compute_joules=known_sum([part.compute_joules for part in counted]),
        data_wait_joules=known_sum([part.data_wait_joules for part in counted]),
        compute_joules_low=known_sum([part.compute_joules_low for part in counted]),
        compute_joules_high=known_sum([part.compute_joules_high for part in counted]),
        data_wait_joules_low=known_sum([part.data_wait_joules_low for part in counted]),
        data_wait_joules_high=known_sum([part.data_wait_joules_high for part in counted]),
        co2e_grams=known_sum([part.co2e_grams for part in counted]),
        cost=known_sum([part.cost for part in counted]),
        measures=bool(counted),
    )


def add_total_figures(parts: Sequence[TotalFigures]) -> TotalFigures:
    """Return the totals of a job from those of its processes."""
    counted = [part for part in parts if part.measures]
    return TotalFigures(
        joules=known_sum([part.joules for part in counted]),
        co2e_grams=known_sum([part.co2e_grams for part in counted]),
        cost=known_sum([part.cost for part in counted]),
        measured_joules=sum(part.measured_joules for part in counted),
        errors=add_up([part.errors for part in counted]),
        whole_machine_joules=known_sum([joules for part in counted if (joules := part.whole_machine_joules) is not None]),
        process_joules=known_sum([part.process_joules for part in counted]),
        intensity_assumed=any(part.intensity_assumed for part in parts),
        measures=bool(counted),
        lower_bound=any(part.lower_bound for part in parts),
    )


def stage_metrics(stage: str, figures: StageFigures, currency: str, suffix: str = "") -> dict[str, float]:
    """Return the metrics of a stage, or of a window of it, by their full names.

    Args:
        stage: Name of the stage.
        figures: Its figures.
        currency: Currency code of the cost.
        suffix: Appended to each name; ``_step`` for a window.
    """
    per_sample = ratio(figures.sampled_joules, figures.samples)
    per_token = ratio(figures.sampled_joules, figures.tokens)
    quantities = {
        "joules": figures.joules,
        "watts": ratio(figures.joules, figures.seconds),
        "joules_per_sample": per_sample,
        "wh_per_1000_samples": None if per_sample is None else per_sample / JOULES_PER_WH * 1000,
        "joules_per_sample_above_idle": ratio(figures.above_idle_joules, figures.samples),
        "joules_per_token": per_token,
        "wh_per_1000_tokens": None if per_token is None else per_token / JOULES_PER_WH * 1000,
        "tokens_per_joule": ratio(figures.tokens, figures.sampled_joules),
        "flops": figures.flops,
        "joules_per_flop": ratio(figures.sampled_joules, figures.flops),
        "flops_per_second": ratio(figures.flops, figures.sampled_seconds),
        "compute_joules": figures.compute_joules,
        "compute_joules_low": figures.compute_joules_low,
        "compute_joules_high": figures.compute_joules_high,
        "data_wait_joules": figures.data_wait_joules,
        "data_wait_joules_low": figures.data_wait_joules_low,
        "data_wait_joules_high": figures.data_wait_joules_high,
        **{f"{part}_joules": joules for part, joules in figures.parts.items()},
        "co2e_grams": figures.co2e_grams,
        f"cost_{currency.lower()}": figures.cost,
    }
    return {f"energy/{stage}/{name}{suffix}": value for name, value in quantities.items() if value is not None}


def total_metrics(figures: TotalFigures, currency: str) -> dict[str, float]:
    """Return the running totals of the whole run by their full names.

    Args:
        figures: The run's figures.
        currency: Currency code of the cost.
    """
    joules = figures.joules
    quantities = {
        "joules": joules,
        "kwh": figures.kwh,
        "co2e_grams": figures.co2e_grams,
        f"cost_{currency.lower()}": figures.cost,
        "relative_uncertainty": math.hypot(*figures.errors.values()) / joules if joules else None,
        "measured_share": figures.measured_joules / joules if joules else None,
        # These two keys are present only if they are true.
        "intensity_assumed": 1.0 if figures.intensity_assumed and figures.co2e_grams is not None else None,
        "lower_bound": 1.0 if figures.lower_bound and joules is not None else None,
        "whole_machine_joules": figures.whole_machine_joules,
        "process_joules": figures.process_joules,
    }
    return {f"energy/total/{name}": value for name, value in quantities.items() if value is not None}


RESULTS: Final = ("energy/total/kwh", "energy/train/joules_per_sample")
"""Names of the metrics that represent a whole run in a table of runs."""


def is_core(name: str) -> bool:
    """Return whether a metric is one of the few that are logged by default (``metrics="core"``)."""
    group, quantity = _parts_of(name)
    if group == "total":
        return quantity in {"kwh", "co2e_grams"} or quantity.startswith("cost_")
    if group == "forecast":
        return quantity.startswith("kwh")
    return quantity.removesuffix(STEP_SUFFIX) in {"watts", "joules_per_sample", "joules_per_token"}


def _parts_of(name: str) -> tuple[str, str]:
    """Return the group of a metric, which may be a sub-stage, and its quantity."""
    group, _, quantity = name.partition("/")[2].rpartition("/")
    return group, quantity


_MEANINGS: Final = {
    "joules": "Energy in J",
    "kwh": "Energy in kWh",
    "watts": "Mean power in W",
    "joules_per_sample": "Energy of one sample in J, without compilation",
    "wh_per_1000_samples": "Energy of 1000 samples in Wh, without compilation",
    "joules_per_sample_above_idle": "Energy of one sample in J, without the devices' idle energy",
    "joules_per_token": "Energy of one token in J, without compilation",
    "wh_per_1000_tokens": "Energy of 1000 tokens in Wh, without compilation",
    "tokens_per_joule": "Tokens per J, without compilation",
    "flops": "Floating-point operations of the samples, without compilation",
    "joules_per_flop": "Energy of one floating-point operation in J, without compilation",
    "flops_per_second": "Floating-point operations per second, without compilation",
    "compute_joules": "Energy of computing batches in J",
    "data_wait_joules": "Energy of waiting for data in J",
    "transfer_joules": "Energy of moving batches to the device in J",
    "forward_joules": "Energy of forward passes in J",
    "backward_joules": "Energy of backward passes in J",
    "optimizer_joules": "Energy of the optimizer's steps in J",
    "co2e_grams": "Emissions in g CO2e",
    "relative_uncertainty": "Half-width of the 95 % interval of the energy, as a share of it",
    "measured_share": "Share of the energy that was measured, not estimated",
    "intensity_assumed": "1 where no location is set, so that the grams are based on the world average",
    "lower_bound": "1 where energy of devices that belong to the run is missing",
    "whole_machine_joules": "Energy in J by the meters of the whole machine, which is not part of the total",
    "process_joules": "Estimate of this job's share of the energy, in J",
    "seconds_left": "Remaining time in s",
}
_GROUPS: Final = {"total": "of the run so far", "forecast": "expected of the whole training"}


def described(name: str) -> str:
    """Return what a metric means, with its unit, from its full name."""
    group, quantity = _parts_of(name)
    base = quantity.removesuffix(STEP_SUFFIX)
    plain = base.removesuffix("_low").removesuffix("_high")
    cost = plain.startswith("cost_")
    meaning = f"Cost of the electricity in {plain.removeprefix('cost_').upper()}" if cost else _MEANINGS.get(plain, plain)
    ends = {"": "", "_low": ", lower end of its 95 % interval", "_high": ", upper end of its 95 % interval"}
    end = ends[base[len(plain) :]]
    window = "steps since the previous log" if quantity != base else "epoch, or evaluation"
    return f"{meaning}{end}, {_GROUPS.get(group) or f'of stage {group} in the {window}'}."


def forecast_metrics(
    *,
    kwh: float,
    kwh_low: float,
    kwh_high: float,
    co2e_grams: float | None,
    cost: float | None,
    currency: str,
    seconds_left: float,
) -> dict[str, float]:
    """Return the forecast of a training's totals, by full names; ``seconds_left`` is its remaining time in s."""
    quantities = {
        "kwh": kwh,
        "kwh_low": kwh_low,
        "kwh_high": kwh_high,
        "co2e_grams": co2e_grams,
        f"cost_{currency.lower()}": cost,
        "seconds_left": seconds_left,
    }
    return {f"energy/forecast/{name}": value for name, value in quantities.items() if value is not None}


def is_stage(name: object) -> bool:
    """Return whether this is the name of a stage, or of a user's own part of one such as ``predict/prefill``."""
    if not isinstance(name, str):
        return False
    stage, slash, own = name.partition("/")
    return stage in STAGES and (not slash or _SUBSTAGE.fullmatch(own) is not None)


def known_sum(parts: Sequence[_Number | None]) -> _Number | None:
    """Return the sum; None if a part is unknown or there are no parts."""
    known = [part for part in parts if part is not None]
    return sum(known) if known and len(known) == len(parts) else None


def add_up(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the sums by name; a name that a part lacks adds nothing."""
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def all_named(texts: Iterable[str | None]) -> str | None:
    """Return the distinct names in the texts, which may be lists of names separated by semicolons; None if there are none."""
    return "; ".join(dict.fromkeys(name for text in texts if text for name in text.split("; "))) or None


def is_positive(value: object) -> bool:
    """Return whether a value is a finite number above 0, including numbers of numpy."""
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and 0 < float(value) < math.inf
    except OverflowError:  # an integer that is too large for a float
        return False


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Return the quotient; None if either is unknown or the denominator is 0."""
    return numerator / denominator if numerator is not None and denominator else None
