"""What all pictures have in common: the figure with its legend, the drawing area with its axes, and what an empty one says."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element
from zlib import crc32

from ml_energy_callbacks.report.drawing.axes import Axis
from ml_energy_callbacks.report.drawing.markup import node, to_html
from ml_energy_callbacks.report.drawing.palette import paint

WIDTH = 760.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 30.0, 48.0
"""Margins of a drawing area, for the numbers at its ticks and the names of its axes."""

MOST_POINTS = 320
"""Two pixels each: more of them show no more, and take space."""

MOST_HOVERS = 80
"""Columns of a picture with a text of their own."""


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend; ``estimated`` ones are hatched."""

    label: str
    colour: str
    estimated: bool = False


def figure(title: str, hint: str, contents: Iterable[Element], keys: Sequence[Key] = ()) -> Element:
    """Return a picture with its title, a hint on how to read it, and its legend."""
    caption = node("figcaption", title, node("small", f" {hint}") if hint else None)
    legend = node("ul", [_entry(key) for key in keys], class_="legend") if keys else None
    return node("figure", caption, contents, legend)


def empty_figure(title: str, reason: str) -> Element:
    """Return what stands in for a picture that has nothing to show."""
    return figure(title, "", [node("p", reason, class_="empty")])


def drawing(height: float, summary: str, contents: Sequence[Element]) -> Element:
    """Return a picture that scales with its column; a screen reader reads its summary."""
    identity = f"mle{crc32(to_html(*contents).encode()):08x}"
    for content in contents:
        for element in content.iter():
            if element.get("fill") == _HATCHED:
                element.set("fill", f"url(#{identity})")
    return node(
        "svg",
        node("defs", _hatch(identity)),
        contents,
        viewBox=f"0 0 {WIDTH:.0f} {height:.0f}",
        role="img",
        aria_label=summary,
    )


_HATCHED = "hatched"


def hatched(shape: Element) -> Element:
    """Return the hatching of a shape, to be drawn above it."""
    over = Element(shape.tag, {name: value for name, value in shape.attrib.items() if name != "style"})
    over.set("fill", _HATCHED)
    return over


def filled(shape: Element, colour: str, *, estimated: bool) -> list[Element]:
    """Return a shape in its colour, and its hatching if its value is estimated."""
    shape.set("style", f"fill:{paint(colour)}")
    return [shape, hatched(shape)] if estimated else [shape]


def _hatch(identity: str) -> Element:
    line = node("path", d="M-1,7L7,-1M-1,1L1,-1M5,7L7,5", style=f"stroke:{paint('surface')};stroke-width:1.6;stroke-opacity:.6")
    return node("pattern", line, id=identity, width=6, height=6, patternUnits="userSpaceOnUse")


def _entry(key: Key) -> Element:
    shapes = filled(node("rect", width=14, height=14, rx=2), key.colour, estimated=key.estimated)
    hatch = [node("path", d="M-1,8L8,-1M2,15L15,2", style=f"stroke:{paint('surface')};stroke-width:2;stroke-opacity:.6")]
    mark = node("svg", shapes[:1], hatch if key.estimated else None, viewBox="0 0 14 14", aria_hidden="true")
    return node("li", mark, f"{key.label} (estimated)" if key.estimated else key.label)


@dataclass(frozen=True, slots=True)
class Area:
    """The drawing area between two axes.

    Attributes:
        across: The horizontal axis.
        up: The vertical axis.
        height: Height of the picture with its margins.
    """

    across: Axis
    up: Axis
    height: float

    def x(self, value: float) -> float:
        """Return where a value is from left to right."""
        return LEFT + (WIDTH - LEFT - RIGHT) * self.across.share(value)

    def y(self, value: float) -> float:
        """Return where a value is from top to bottom."""
        return self.height - BOTTOM - (self.height - TOP - BOTTOM) * self.up.share(value)

    @property
    def bottom(self) -> float:
        """Where the horizontal axis is."""
        return self.height - BOTTOM

    def axes(self, across: str, up: str) -> list[Element]:
        """Return both axes with their names and units, and lines at the ticks."""
        lines = "".join(f"M{LEFT},{self.y(tick):.1f}H{WIDTH - RIGHT}" for tick in self.up.ticks)
        parts = [node("path", d=lines, class_="grid")]
        parts += [node("text", self.up.label(y), x=LEFT - 8, y=self.y(y) + 4, text_anchor="end") for y in self.up.ticks]
        parts += [
            node("text", self.across.label(x), x=self.x(x), y=self.bottom + 19, text_anchor="middle") for x in self.across.ticks
        ]
        parts.append(node("text", _with_unit(up, self.up.unit), x=4, y=14, class_="ink"))
        name = _with_unit(across, self.across.unit)
        parts.append(node("text", name, x=WIDTH - RIGHT, y=self.height - 8, text_anchor="end", class_="ink"))
        return parts

    def hover(self, start: float, end: float, text: str) -> Element:
        """Return a column that shows a text under the pointer."""
        left, right = self.x(start), self.x(end)
        return node(
            "rect",
            node("title", text),
            x=left,
            y=TOP,
            width=max(right - left, 1.0),
            height=self.bottom - TOP,
            class_="hover",
        )


def _with_unit(name: str, unit: str) -> str:
    return f"{name}, {unit}" if name and unit else name or unit
