"""Values over time or epochs: lines with bands, and stacked areas."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isfinite
from typing import Final
from xml.etree.ElementTree import Element

from ml_energy_callbacks.report.drawing.axes import Axis, axis_around, axis_from_zero, axis_of_numbers, axis_of_time
from ml_energy_callbacks.report.drawing.frame import (
    MOST_HOVERS,
    MOST_POINTS,
    TOP,
    Area,
    Key,
    drawing,
    empty_figure,
    figure,
    filled,
)
from ml_energy_callbacks.report.drawing.markup import node, number
from ml_energy_callbacks.report.drawing.palette import paint
from ml_energy_callbacks.report.quantities import scaled, scaled_range

_HEIGHT: Final = 280.0
_MOST_DOTS = 40


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a time or epoch, None where it is not known; with the ends of its interval, or None."""

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one name in one colour, in the order of their times or epochs."""

    label: str
    colour: str
    points: Sequence[Point]
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Across:
    """The horizontal axis.

    Attributes:
        name: What it shows, such as ``epoch`` or ``time``.
        time: Whether its values are in s; else they are whole numbers.
        end: Its last value at least.
        marks: Values to mark by a line, such as the starts of epochs.
    """

    name: str
    time: bool = False
    end: float = 0.0
    marks: Sequence[float] = ()


EPOCHS: Final = Across("epoch")


def lines(
    title: str,
    series: Sequence[Series],
    *,
    across: Across = EPOCHS,
    name: str,
    unit: str,
    hint: str = "",
    empty: str,
    from_zero: bool = True,
) -> Element:
    """Return lines, each with the band of its intervals; an estimated one is dashed, and an unknown value is a gap.

    Args:
        title: What is shown.
        series: The lines; of many points, neighbours are drawn as one, with their mean and a band that holds them all.
        across: The horizontal axis.
        name: Name of the vertical axis.
        unit: Unit of the values, without a prefix; none for a metric.
        hint: How to read the picture.
        empty: Why there is nothing to show, if no value is known.
        from_zero: Whether the vertical axis begins at zero.
    """
    shown = [_thinned(each) for each in series]
    ends = [end for each in shown for point in each.points for end in (point.y, point.low, point.high) if _known(end)]
    if not any(_known(point.y) for each in shown for point in each.points):
        return empty_figure(title, empty)
    values = [end for end in ends if end is not None]
    up = axis_from_zero(values, unit) if from_zero else axis_around(values, unit)
    area = Area(_axis_across(across, series), up, _HEIGHT)
    contents = [*area.axes(across.name, name), *_marks(area, across)]
    for each in shown:
        contents += _line(area, each)
    contents += _hovers(area, across, series, unit)
    keys = [Key(each.label, each.colour, each.estimated) for each in series]
    return figure(title, hint, [drawing(_HEIGHT, _summary(title, series, unit), contents)], keys)


def areas(
    title: str,
    series: Sequence[Series],
    *,
    across: Across = EPOCHS,
    name: str,
    unit: str,
    hint: str = "",
    empty: str,
) -> Element:
    """Return areas on top of each other, whose points are at the same times; where a value is unknown, the column is hatched.

    The arguments are those of :func:`lines`; intervals are not drawn.
    """
    shown = [_thinned(each) for each in series]
    if not any(_known(point.y) for each in shown for point in each.points):
        return empty_figure(title, empty)
    columns = list(zip(*([point.y if _known(point.y) else None for point in each.points] for each in shown), strict=True))
    sums = [sum(max(0.0, value) for value in column if value is not None) for column in columns]
    area = Area(_axis_across(across, series), axis_from_zero(sums, unit), _HEIGHT)
    times = [point.x for point in shown[0].points]
    contents = area.axes(across.name, name)
    contents += _gaps(area, times, columns)
    for i in reversed(range(len(shown))):  # each covers the lower part of the one above it
        tops = [sum(max(0.0, value or 0.0) for value in column[: i + 1]) for column in columns]
        outline = _path(area, [(times[0], 0.0), *zip(times, tops, strict=True), (times[-1], 0.0)])
        contents += filled(node("path", d=f"{outline}z"), shown[i].colour, estimated=shown[i].estimated)
    contents += [*_marks(area, across), *_hovers(area, across, series, unit)]
    keys = [Key(each.label, each.colour, each.estimated) for each in series]
    return figure(title, hint, [drawing(_HEIGHT, _summary(title, series, unit), contents)], keys)


def _known(value: float | None) -> bool:
    return value is not None and isfinite(value)


def _thinned(series: Series) -> Series:
    """Return a series of a bounded number of points: each is the mean of neighbours, and its interval holds theirs."""
    size = ceil(len(series.points) / MOST_POINTS)
    if size < 2:  # noqa: PLR2004 - one point for each
        return series
    groups = [series.points[i : i + size] for i in range(0, len(series.points), size)]
    return Series(series.label, series.colour, [_merged(group) for group in groups], series.estimated)


def _merged(points: Sequence[Point]) -> Point:
    known = [(point, point.y) for point in points if point.y is not None and isfinite(point.y)]
    middle = (points[0].x + points[-1].x) / 2
    if not known:
        return Point(middle, None)
    lows = [y if point.low is None else point.low for point, y in known]
    highs = [y if point.high is None else point.high for point, y in known]
    return Point(middle, sum(y for _, y in known) / len(known), min(lows), max(highs))


def _axis_across(across: Across, series: Sequence[Series]) -> Axis:
    end = max([across.end, *(point.x for each in series for point in each.points)])
    return axis_of_time(end) if across.time else axis_of_numbers(end)


def _marks(area: Area, across: Across) -> Iterator[Element]:
    if across.marks:
        lines = "".join(f"M{number(area.x(x))},{TOP}v6" for x in across.marks)
        yield node("path", d=lines, class_="whisker")


def _runs(points: Sequence[Point], known: Callable[[Point], bool]) -> Iterator[Sequence[Point]]:
    """Yield the stretches of points without a gap."""
    run: list[Point] = []
    for point in points:
        if known(point):
            run.append(point)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _line(area: Area, series: Series) -> Iterator[Element]:
    colour = paint(series.colour)
    for run in _runs(series.points, lambda point: _known(point.low) and _known(point.high)):
        edge = [(point.x, point.high or 0.0) for point in run] + [(point.x, point.low or 0.0) for point in reversed(run)]
        yield node("path", d=f"{_path(area, edge)}z", class_="band", style=f"fill:{colour}")
    curve = ""
    dots: list[Point] = []
    for run in _runs(series.points, lambda point: _known(point.y)):
        curve += _path(area, [(point.x, point.y or 0.0) for point in run])
        if len(series.points) <= _MOST_DOTS or len(run) == 1:
            dots += run
    dashes = "6 4" if series.estimated else None
    yield node("path", d=curve, class_="curve", style=f"stroke:{colour}", stroke_dasharray=dashes)
    for point in dots:
        yield node("circle", cx=area.x(point.x), cy=area.y(point.y or 0.0), r=3, style=f"fill:{colour}")


def _path(area: Area, points: Sequence[tuple[float, float]]) -> str:
    """Return a path in tenths of a pixel, each point relative to the one before it, which takes least space."""
    places = [(round(10 * area.x(x)), round(10 * area.y(y))) for x, y in points]
    steps = [(x - x0, y - y0) for (x0, y0), (x, y) in pairwise(places)]
    (x, y), rest = places[0], "".join(f" {number(dx / 10)},{number(dy / 10)}" for dx, dy in steps)
    return f"M{number(x / 10)},{number(y / 10)}" + (f"l{rest[1:]}" if rest else "")


def _gaps(area: Area, times: Sequence[float], columns: Sequence[Sequence[float | None]]) -> Iterator[Element]:
    """Yield a hatched column wherever a value is unknown."""
    step = times[1] - times[0] if len(times) > 1 else area.across.high
    points = [Point(time, 1.0 if None in column else None) for time, column in zip(times, columns, strict=True)]
    for run in _runs(points, lambda point: point.y is not None):
        left, right = area.x(run[0].x - step / 2), area.x(run[-1].x + step / 2)
        shape = node("rect", x=left, y=TOP, width=max(1.0, right - left), height=area.bottom - TOP, class_="gap")
        for element in filled(shape, "line", estimated=True):
            element.append(node("title", "Not every device could be read."))
            yield element


def _hovers(area: Area, across: Across, series: Sequence[Series], unit: str) -> Iterator[Element]:
    """Yield columns with the values of all series as a text."""
    times = sorted({point.x for each in series for point in each.points})
    size = ceil(len(times) / MOST_HOVERS)
    groups = [times[i : i + size] for i in range(0, len(times), size)]
    starts = [group[0] for group in groups]
    edges = [starts[0], *((group[-1] + start) / 2 for group, start in zip(groups, starts[1:], strict=False)), area.across.high]
    within: list[list[str]] = [[] for _ in groups]
    for each in series:
        i = 0
        members: list[list[Point]] = [[] for _ in groups]
        for point in each.points:
            while i + 1 < len(groups) and point.x >= starts[i + 1]:
                i += 1
            members[i].append(point)
        for texts, points in zip(within, members, strict=True):
            if points:
                texts.append(f"{each.label}: {_shown(_merged(points), unit)}")
    for group, texts, left, right in zip(groups, within, edges, edges[1:], strict=False):
        where = _where(area.across, across.name, group)
        yield area.hover(left, right, "\n".join([where, *texts]))


def _where(axis: Axis, name: str, group: Sequence[float]) -> str:
    first, last = (f"{x / axis.factor:,.4g}" for x in (group[0], group[-1]))
    unit = f" {axis.unit}" if axis.unit else ""
    return f"{name} {first}{unit}" if first == last else f"{name} {first} to {last}{unit}"


def _shown(point: Point, unit: str) -> str:
    if point.y is None or not isfinite(point.y):
        return "unknown"
    text = _value(point.y, unit)
    if point.low is None or point.high is None:
        return text
    ends = scaled_range(point.low, point.high, unit) if unit else f"{point.low:.4g} to {point.high:.4g}"
    return f"{text} ({ends})"


def _value(value: float, unit: str) -> str:
    return scaled(value, unit) if unit else f"{value:.4g}"


def _summary(title: str, series: Sequence[Series], unit: str) -> str:
    """Return what a screen reader says of a picture: the first and the last value of each series, and its range."""
    texts = []
    for each in series:
        known = [point.y for point in each.points if point.y is not None and isfinite(point.y)]
        if known:
            first, last, low, high = (_value(value, unit) for value in (known[0], known[-1], min(known), max(known)))
            texts.append(f"{each.label}: from {first} to {last}, between {low} and {high}.")
    return " ".join([f"{title}.", *texts])
