"""The only place that spells metric names and units.

A name is ``energy/<stage>/<quantity>``; running totals are ``energy/total/<quantity>``. The same name with ``_step`` covers
the time since the previous step log. A quantity that is not known has no key at all.
"""

from typing import Final, Literal, get_args

Stage = Literal["train", "validate", "test", "predict", "sanity_check", "other"]
Phase = Literal["compute", "data_wait", "other"]

STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)

JOULES_PER_KWH: Final = 3.6e6
JOULES_PER_WH: Final = 3600.0

STEP_SUFFIX: Final = "_step"


def stage_metrics(
    stage: str,
    *,
    joules: float | None,
    seconds: float,
    samples: int | None,
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
        samples: Number of samples that passed, or None where it is not known.
        compute_joules: Part of ``joules`` spent between batch start and batch end, in J, or None.
        data_wait_joules: Part of ``joules`` spent waiting for data, in J, or None.
        co2e_grams: Emissions in g CO2e, or None.
        cost: Cost of the electricity in ``currency``, or None.
        currency: Currency code.
        suffix: Appended to each name; ``_step`` for a window.
    """
    quantities = {
        "joules": joules,
        "watts": _ratio(joules, seconds),
        "joules_per_sample": _ratio(joules, samples),
        "wh_per_1000_samples": _ratio(None if joules is None else joules / JOULES_PER_WH * 1000, samples),
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
) -> dict[str, float]:
    """Return the running totals of the whole run by their full names; units as in :func:`stage_metrics`.

    Args:
        joules: Energy in J.
        co2e_grams: Emissions in g CO2e, or None.
        cost: Cost of the electricity in ``currency``, or None.
        currency: Currency code.
        relative_uncertainty: Half-width of the 95 % interval of ``joules`` as a share of it, or None.
        measured_share: Share of ``joules`` that was measured (the rest is estimated), 0 to 1, or None.
    """
    quantities = {
        "joules": joules,
        "kwh": None if joules is None else joules / JOULES_PER_KWH,
        "co2e_grams": co2e_grams,
        f"cost_{currency.lower()}": cost,
        "relative_uncertainty": relative_uncertainty,
        "measured_share": measured_share,
    }
    return {f"energy/total/{name}": value for name, value in quantities.items() if value is not None}


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None
