"""Parts of parts, from the whole at the top down: as wide as they are large, below what they are a part of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from xml.etree.ElementTree import Element

from ml_energy_callbacks.report.drawing.axes import Axis, axis_from_zero
from ml_energy_callbacks.report.drawing.frame import RIGHT, WIDTH, drawing, empty_figure, figure, filled
from ml_energy_callbacks.report.drawing.markup import node, number
from ml_energy_callbacks.report.drawing.palette import paint

_LEFT = 4.0
_ROW, _GAP = 26.0, 2.0
_AXIS = 44.0
_LETTER_WIDTH = 7.5
_PADDING = 5.0
_LEAST_WIDTH = 0.3
"""A narrower part is not drawn."""


@dataclass(frozen=True, slots=True)
class Slab:
    """A part.

    Attributes:
        label: Its name, which is left out where it has no room.
        value: Its size, which is at least that of its parts together.
        colour: Name of its colour.
        text: What it shows under the pointer.
        estimated: Whether it is estimated.
        parts: Its parts, from left to right.
    """

    label: str
    value: float
    colour: str
    text: str
    estimated: bool = False
    parts: Sequence["Slab"] = field(default=())


def icicle(title: str, whole: Slab, *, unit: str, hint: str = "", empty: str) -> Element:
    """Return the parts of a whole, and their parts, in rows.

    Args:
        title: What is shown.
        whole: The whole.
        unit: Unit of the sizes, without a prefix.
        hint: How to read the picture.
        empty: Why there is nothing to show, if the whole is not above zero.
    """
    if not whole.value > 0:
        return empty_figure(title, empty)
    axis = replace(axis_from_zero([whole.value], unit), high=whole.value)
    height = _levels(whole) * _ROW
    contents = list(_drawn(whole, axis, 0.0, 0))
    grid = "".join(f"M{number(_x(axis, tick))},{number(height)}v6" for tick in axis.ticks)
    contents.append(node("path", d=grid, class_="grid"))
    for tick in axis.ticks:
        at = "start" if tick == axis.low else "middle"
        contents.append(node("text", axis.label(tick), x=_x(axis, tick), y=height + 20, text_anchor=at))
    contents.append(node("text", axis.unit, x=WIDTH - RIGHT, y=height + 38, text_anchor="end", class_="ink"))
    summary = f"{title}. {whole.text}. " + " ".join(f"{part.text}." for part in whole.parts)
    return figure(title, hint, [drawing(height + _AXIS, summary, contents)])


def _levels(slab: Slab) -> int:
    return 1 + max((_levels(part) for part in slab.parts), default=0)


def _x(axis: Axis, value: float) -> float:
    return _LEFT + (WIDTH - _LEFT - RIGHT) * axis.share(value)


def _drawn(slab: Slab, axis: Axis, start: float, level: int) -> Iterator[Element]:
    left, right = _x(axis, start), _x(axis, start + slab.value)
    width = right - left
    if width < _LEAST_WIDTH:
        return
    top = level * _ROW
    # A line between neighbours takes less than a part that is narrow.
    inner = width - min(1.0, width / 4)
    shape = node("rect", x=left, y=top, width=inner, height=_ROW - _GAP, fill_opacity="0.22")
    edge = node("rect", x=left, y=top, width=min(3.0, inner), height=_ROW - _GAP, style=f"fill:{paint(slab.colour)}")
    yield from filled(shape, slab.colour, estimated=slab.estimated)
    yield edge
    if (letters := int((width - 2 * _PADDING) / _LETTER_WIDTH)) >= min(len(slab.label), 4):
        label = slab.label if len(slab.label) <= letters else f"{slab.label[: letters - 1]}…"
        yield node("text", label, x=left + _PADDING + 2, y=top + _ROW / 2 + 3, class_="ink")
    yield node("rect", node("title", slab.text), x=left, y=top, width=width, height=_ROW - _GAP, class_="hover")
    for part in slab.parts:
        yield from _drawn(part, axis, start, level + 1)
        start += max(0.0, part.value)
