"""Points of two quantities, such as energy and a metric of several runs, with the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from ml_energy_callbacks.report.drawing.axes import axis_around, axis_from_zero
from ml_energy_callbacks.report.drawing.frame import WIDTH, Area, drawing, empty_figure, figure
from ml_energy_callbacks.report.drawing.markup import node
from ml_energy_callbacks.report.drawing.palette import paint

_HEIGHT: Final = 340.0
_RADIUS = 5.0
_MOST_LABELS = 12
_LABEL_SHARE = 0.75
"""From where on a label is to the left of its point."""
_LONGEST_LABEL = 28
_LETTER_WIDTH, _LABEL_HEIGHT = 8.0, 13.0
"""A label that would cover an earlier one is left out; the text under the pointer has it."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A point.

    Attributes:
        label: Its name.
        x: Its cost.
        y: Its worth.
        colour: Name of its colour.
        text: What it shows under the pointer.
        low: Lower end of the 95 % interval of ``x``, or None.
        high: Its upper end.
    """

    label: str
    x: float
    y: float
    colour: str
    text: str
    low: float | None = None
    high: float | None = None


def pareto(spots: Sequence[Spot], *, more_is_better: bool) -> list[Spot]:
    """Return the points that no other one beats in cost and worth at once, the cheapest first."""
    front: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.x, -spot.y if more_is_better else spot.y)):
        if not front or (spot.y > front[-1].y if more_is_better else spot.y < front[-1].y):
            front.append(spot)
    return front


def scatter(
    title: str,
    spots: Sequence[Spot],
    *,
    x_name: str,
    x_unit: str,
    y_name: str,
    more_is_better: bool | None,
    hint: str = "",
    empty: str,
) -> Element:
    """Return points, with a line through those that no other one beats in cost and worth at once.

    Args:
        title: What is shown.
        spots: The points.
        x_name: Name of the cost, on an axis from zero.
        x_unit: Its unit, without a prefix.
        y_name: Name of the worth; its axis fits its values.
        more_is_better: Whether more of it is better; None where that is not known, so that there is no front.
        hint: How to read the picture.
        empty: Why there is nothing to show, if there are no points.
    """
    if not spots:
        return empty_figure(title, empty)
    across = axis_from_zero([spot.high or spot.x for spot in spots], x_unit)
    area = Area(across, axis_around([spot.y for spot in spots], ""), _HEIGHT)
    front = [] if more_is_better is None else pareto(spots, more_is_better=more_is_better)
    steps = "".join(
        f"H{area.x(spot.x):.1f}V{area.y(spot.y):.1f}" if i else f"M{area.x(spot.x):.1f},{area.y(spot.y):.1f}"
        for i, spot in enumerate(front)
    )
    contents = area.axes(x_name, y_name)
    if steps:
        contents.append(node("path", d=steps, class_="curve", style=f"stroke:{paint('muted')}", stroke_dasharray="5 4"))
    named: list[tuple[float, float, float]] = []
    for spot in spots:
        x, y, colour = area.x(spot.x), area.y(spot.y), paint(spot.colour)
        if spot.low is not None and spot.high is not None:
            ends = f"M{area.x(max(0.0, spot.low)):.1f},{y:.1f}H{area.x(spot.high):.1f}"
            contents.append(node("path", d=ends, class_="curve", style=f"stroke:{colour};stroke-opacity:.5"))
        fill = colour if spot in front else paint("surface")
        contents.append(
            node(
                "circle",
                node("title", spot.text),
                cx=x,
                cy=y,
                r=_RADIUS,
                style=f"fill:{fill};stroke:{colour};stroke-width:2",
            )
        )
        if len(spots) <= _MOST_LABELS:
            left = x > WIDTH * _LABEL_SHARE
            label = spot.label if len(spot.label) <= _LONGEST_LABEL else f"{spot.label[: _LONGEST_LABEL - 1]}…"
            at = x - 9 if left else x + 9
            start = at - _LETTER_WIDTH * len(label) if left else at
            end = start + _LETTER_WIDTH * len(label)
            if any(start < b and a < end and abs(y - level) < _LABEL_HEIGHT for a, b, level in named):
                continue
            named.append((start, end, y))
            contents.append(node("text", label, x=at, y=y - 8, text_anchor="end" if left else "start", class_="ink"))
    best = ", ".join(spot.label for spot in front)
    summary = f"{title}. {len(spots)} points" + (f"; on the Pareto front: {best}." if front else ".")
    return figure(title, hint, [drawing(_HEIGHT, summary, contents)])
