"""Measurements of layers to their costs."""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_energy_callbacks.inference.layers.fit import Estimate, Fit
from ml_energy_callbacks.inference.layers.measure import LEAST_SHARE, Measured
from ml_energy_callbacks.inference.layers.results import LayerCost, rest_of
from ml_energy_callbacks.metrics import ratio
from ml_energy_callbacks.report.quantities import percent, quantity

_WIDEST = 0.5
"""A wider interval, as a share of the energy, is a range only."""


def layer_fields(measured: Measured) -> dict[str, Any]:
    """Return the fields of a :class:`LayerProfile` that the measurements give."""
    fit = Fit(measured.parents, measured.rows) if measured.rows else None
    fit = fit if fit is not None and fit.known else None
    found = {} if fit is None else {i: fit.layer(i) for i in fit.fitted}
    known = {i: each for i, each in found.items() if each.joules and each.half_width <= _WIDEST * each.joules}
    whole = None if fit is None else fit.whole()
    rest = None if fit is None else fit.rest([i for i in known if measured.parents[i] is None])
    reasons = _reasons(measured, found, known)
    limits = _limits(measured, found, whole, rest)
    shares = measured.shares
    layers = [
        _with_energy(
            LayerCost(
                name=layer.name,
                kind=type(layer.module).__name__,
                depth=layer.depth,
                calls=measured.times[i].calls / measured.steps,
                seconds=measured.layer_seconds(i),
                time_share=shares[i],
                forward_seconds=measured.times[i].forward / measured.steps,
                backward_seconds=measured.times[i].backward / measured.steps,
                forward_flops=measured.flops[i][0],
                backward_flops=measured.flops[i][1],
                reason=reasons.get(i),
            ),
            known.get(i),
            limits[i],
            whole,
        )
        for i, layer in enumerate(measured.layers)
        if measured.times[i].calls
    ]
    return {
        "whole": _with_energy(_whole(measured, None if whole else _no_energy(measured)), whole, whole, whole),
        "layers": layers,
        "rest": _with_energy(rest_of(measured.seconds, layers, None if rest else _no_energy(measured)), rest, rest, whole),
        "steps": measured.steps,
        "blocks": len(measured.rows),
        "seconds": measured.duration,
        "notes": list(_notes(measured, fit)),
    }


def _whole(measured: Measured, reason: str | None) -> LayerCost:
    forward, backward = measured.step_flops
    return LayerCost(
        name="step",
        kind="",
        depth=0,
        calls=1,
        seconds=measured.seconds,
        time_share=1.0,
        forward_seconds=measured.forward_seconds,
        backward_seconds=max(0.0, measured.seconds - measured.forward_seconds),
        forward_flops=forward,
        backward_flops=backward,
        reason=reason,
    )


def _with_energy(cost: LayerCost, known: Estimate | None, limits: Estimate | None, whole: Estimate | None) -> LayerCost:
    """Add the energy to a cost, and the ends of its interval."""
    if limits is not None:
        cost.low_joules, cost.high_joules = limits.low, limits.high
    if known is not None:
        cost.joules = known.joules
        cost.joules_share = None if whole is None else ratio(known.joules, whole.joules)
        cost.joules_per_flop = ratio(known.joules, cost.flops)
    return cost


def _limits(
    measured: Measured, found: Mapping[int, Estimate], whole: Estimate | None, rest: Estimate | None
) -> list[Estimate | None]:
    """Return the interval of each layer; of one without its own, it is from zero to that of what is around it."""
    limits: list[Estimate | None] = []
    for i, parent in enumerate(measured.parents):
        around = rest if parent is None else limits[parent]
        limits.append(found.get(i) or (None if around is None or whole is None else Estimate(0.0, 0.0, around.high)))
    return limits


def _reasons(measured: Measured, found: Mapping[int, Estimate], known: Mapping[int, Estimate]) -> dict[int, str]:
    """Return why the energy of layers is not known."""
    reasons = {}
    for i, share in enumerate(measured.shares):
        if i in known:
            continue
        if i in measured.failed:
            reasons[i] = f"It cannot run alone ({measured.failed[i].rstrip('.')})."
        elif i in found:
            reasons[i] = "Its energy is known only to within a range; raise max_seconds."
        elif measured.rows and share < LEAST_SHARE:
            reasons[i] = f"It takes {percent(share)} of the time, too little to measure; its energy is in what is around it."
        else:
            reasons[i] = _no_energy(measured)
    return reasons


def _no_energy(measured: Measured) -> str:
    if measured.blocks and not measured.rows:
        return "No device could be read."
    return "Too few blocks were measured; raise max_seconds."


def _notes(measured: Measured, fit: Fit | None) -> Iterator[str]:
    if measured.rows and not measured.complete:
        yield (
            f"Measured for {quantity(measured.duration, 's')}, in which the intervals did not get as narrow as requested; "
            "raise max_seconds."
        )
    if fit is not None and fit.excess:
        yield (
            f"The layers use {quantity(fit.excess, 'J')} more alone than in the step, by which their energy is reduced: what "
            "they share, such as data in a cache or work at the same time, counts once."
        )
