"""The only place that spells metric names and units.

A name is ``energy/<stage>/<quantity>``; running totals are ``energy/total/<quantity>``. The same name with ``_step`` covers
the time since the previous step log. A quantity that is not known has no key at all.
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeVar, get_args

# What a stage's time goes into: ``compute`` a batch; ``data_wait`` for the next one; ``step``, the two together where the
# framework does not show them apart; ``compile`` the framework's functions; ``other``: logging, checkpoints, set-up.
Stage = Literal["train", "validate", "test", "predict", "sanity_check", "other"]
Phase = Literal["compute", "data_wait", "step", "compile", "other"]

# What a carbon intensity counts: all from the well and the factory on, what the power stations emit, some of each, or it is not
# said.
Basis = Literal["lifecycle", "direct", "mixed", "unknown"]

STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)

JOULES_PER_KWH: Final = 3.6e6
JOULES_PER_WH: Final = 3600.0

STEP_SUFFIX: Final = "_step"

_Number = TypeVar("_Number", int, float)


def stage_metrics(
    stage: str,
    *,
    joules: float | None,
    seconds: float,
    joules_per_sample: float | None,
    joules_per_sample_above_idle: float | None,
    compute_joules: float | None,
    data_wait_joules: float | None,
    co2e_grams: float | None,
    cost: float | None,
    currency: str,
    suffix: str = "",
) -> dict[str, float]:
    """Return the metrics of a stage, or of a window of it, by their full names.

    Args:
        stage: Name of the stage.
        joules: Energy in J.
        seconds: Length in s.
        joules_per_sample: Energy of a sample in J, compiling left out, or None.
        joules_per_sample_above_idle: The same without what the devices draw idle, in J, or None.
        compute_joules: Part of ``joules`` spent computing batches, in J, or None.
        data_wait_joules: Part of ``joules`` spent waiting for data, in J, or None.
        co2e_grams: Emissions in g CO2e, or None.
        cost: Cost of the electricity in ``currency``, or None.
        currency: Currency code.
        suffix: Appended to each name; ``_step`` for a window.
    """
    quantities = {
        "joules": joules,
        "watts": ratio(joules, seconds),
        "joules_per_sample": joules_per_sample,
        "wh_per_1000_samples": None if joules_per_sample is None else joules_per_sample / JOULES_PER_WH * 1000,
        "joules_per_sample_above_idle": joules_per_sample_above_idle,
        "compute_joules": compute_joules,
        "data_wait_joules": data_wait_joules,
        "co2e_grams": co2e_grams,
        f"cost_{currency.lower()}": cost,
    }
    return {f"energy/{stage}/{name}{suffix}": value for name, value in quantities.items() if value is not None}


def total_metrics(
    *,
    joules: float | None,
    co2e_grams: float | None,
    cost: float | None,
    currency: str,
    relative_uncertainty: float | None,
    measured_share: float | None,
    intensity_assumed: bool,
    whole_machine_joules: float | None = None,
    process_joules: float | None = None,
) -> dict[str, float]:
    """Return the running totals of the whole run by their full names; units as in :func:`stage_metrics`.

    Args:
        joules: Energy in J.
        co2e_grams: Emissions in g CO2e, or None.
        cost: Cost of the electricity in ``currency``, or None.
        currency: Currency code.
        relative_uncertainty: Half-width of the 95 % interval of ``joules`` as a share of it, or None.
        measured_share: Share of ``joules`` that was measured (the rest is estimated), 0 to 1, or None.
        intensity_assumed: Whether the grams are by the world's average, as nobody named a place; the key is there only then.
        whole_machine_joules: What the meters of the whole machine say, in J, or None; it is not part of ``joules``.
        process_joules: Estimate of this job's share of ``joules``, in J, or None.
    """
    quantities = {
        "joules": joules,
        "kwh": None if joules is None else joules / JOULES_PER_KWH,
        "co2e_grams": co2e_grams,
        f"cost_{currency.lower()}": cost,
        "relative_uncertainty": relative_uncertainty,
        "measured_share": measured_share,
        "intensity_assumed": 1.0 if intensity_assumed and co2e_grams is not None else None,
        "whole_machine_joules": whole_machine_joules,
        "process_joules": process_joules,
    }
    return {f"energy/total/{name}": value for name, value in quantities.items() if value is not None}


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
    """Return what a training is expected to take in all, by full names; ``seconds_left`` is the time to come in s."""
    quantities = {
        "kwh": kwh,
        "kwh_low": kwh_low,
        "kwh_high": kwh_high,
        "co2e_grams": co2e_grams,
        f"cost_{currency.lower()}": cost,
        "seconds_left": seconds_left,
    }
    return {f"energy/forecast/{name}": value for name, value in quantities.items() if value is not None}


def known_sum(parts: Sequence[_Number | None]) -> _Number | None:
    """Return the sum, or None where a part is not known, or there is none."""
    known = [part for part in parts if part is not None]
    return sum(known) if known and len(known) == len(parts) else None


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Return the quotient, or None where either is not known or the denominator is zero."""
    return numerator / denominator if numerator is not None and denominator else None
