"""Horizontal bars of parts, such as stages of phases, with an interval at the end of each part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from ml_energy_callbacks.report.drawing.axes import Axis, axis_from_zero
from ml_energy_callbacks.report.drawing.frame import RIGHT, WIDTH, Key, drawing, empty_figure, figure, filled
from ml_energy_callbacks.report.drawing.markup import node, number

_LEFT = 4.0
_LABEL, _BAR, _GAP = 20.0, 22.0, 12.0
_AXIS = 44.0
_CAP = 2.5
_LEAST_WHISKER = 1.5
"""A shorter interval would only thicken the end of its part."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar.

    Attributes:
        label: Its name, the same in all bars.
        value: Its size.
        colour: Name of its colour.
        text: What it shows under the pointer.
        low: Lower end of the 95 % interval of its size, or None.
        high: Its upper end.
        estimated: Whether it is estimated.
    """

    label: str
    value: float
    colour: str
    text: str
    low: float | None = None
    high: float | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with its name, a text behind it, and its parts."""

    label: str
    text: str
    parts: Sequence[Part]


def bars(title: str, found: Sequence[Bar], *, unit: str, hint: str = "", empty: str) -> Element:
    """Return bars of parts.

    Args:
        title: What is shown.
        found: The bars from top to bottom; a part below zero has no length.
        unit: Unit of the parts, without a prefix.
        hint: How to read the picture.
        empty: Why there is nothing to show, if no part is above zero.
    """
    if not any(part.value > 0 for bar in found for part in bar.parts):
        return empty_figure(title, empty)
    axis = axis_from_zero([_length(bar) for bar in found], unit)
    contents: list[Element] = []
    height = len(found) * (_LABEL + _BAR + _GAP)
    tops = [i * (_LABEL + _BAR + _GAP) + _LABEL for i in range(len(found))]
    grid = "".join(f"M{number(_x(axis, tick))},{number(top)}v{_BAR + _GAP / 2}" for tick in axis.ticks for top in tops)
    contents.append(node("path", d=grid, class_="grid"))
    for bar, top in zip(found, tops, strict=True):
        contents += _drawn(bar, axis, top)
    for tick in axis.ticks:
        at = "start" if tick == axis.low else "end" if tick == axis.high else "middle"
        contents.append(node("text", axis.label(tick), x=_x(axis, tick), y=height + 16, text_anchor=at))
    contents.append(node("text", axis.unit, x=WIDTH - RIGHT, y=height + 36, text_anchor="end", class_="ink"))
    keys = {(part.label, part.colour, part.estimated) for bar in found for part in bar.parts if part.value > 0}
    order = list(dict.fromkeys(part.label for bar in found for part in bar.parts))
    legend = [Key(*key) for key in sorted(keys, key=lambda key: (order.index(key[0]), key[2]))]
    summary = f"{title}. " + " ".join(f"{bar.label}: {bar.text}." for bar in found)
    return figure(title, hint, [drawing(height + _AXIS, summary, contents)], legend)


def _length(bar: Bar) -> float:
    """Return the end of a bar and of the intervals of its parts."""
    end = longest = 0.0
    for part in bar.parts:
        longest = max(longest, end + (part.high or 0.0))
        end += max(0.0, part.value)
    return max(longest, end)


def _x(axis: Axis, value: float) -> float:
    return _LEFT + (WIDTH - _LEFT - RIGHT) * axis.share(value)


def _drawn(bar: Bar, axis: Axis, top: float) -> Iterator[Element]:
    label = node("text", node("tspan", bar.label, font_weight=600), f" {bar.text}", x=_LEFT, y=top - 6, class_="ink")
    yield label
    start, whiskers = 0.0, []
    for i, part in enumerate(bar.parts):
        end = start + max(0.0, part.value)
        left, right = _x(axis, start), _x(axis, end)
        shape = node("rect", x=left, y=top, width=max(right - left, 0.0), height=_BAR)
        for element in filled(shape, part.colour, estimated=part.estimated):
            element.append(node("title", part.text))
            yield element
        if part.low is not None and part.high is not None:
            ends = _x(axis, max(0.0, start + part.low)), _x(axis, start + part.high)
            if ends[1] - ends[0] > _LEAST_WHISKER:
                level = top + _BAR * (i + 1) / (len(bar.parts) + 1)
                whiskers.append(_whisker(*ends, level))
        start = end
    yield from whiskers


def _whisker(left: float, right: float, level: float) -> Element:
    caps = "".join(f"M{x:.1f},{level - _CAP:.1f}v{2 * _CAP}" for x in (left, right))
    return node("path", d=f"M{left:.1f},{level:.1f}H{right:.1f}{caps}", class_="whisker")
