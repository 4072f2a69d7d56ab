"""Pictures as inline SVG: read back as XML."""

from xml.etree.ElementTree import Element, fromstring

import pytest

from ml_energy_callbacks.report.drawing import (
    Across,
    Bar,
    Part,
    Point,
    Series,
    Slab,
    Spot,
    areas,
    bars,
    icicle,
    lines,
    pareto,
    scatter,
    series_colour,
    style,
    to_html,
)
from ml_energy_callbacks.report.drawing.axes import axis_around, axis_from_zero, axis_of_numbers, axis_of_time

NASTY = "<script>alert(1)</script>\"'&"


def texts(figure: Element) -> list[str]:
    return ["".join(element.itertext()) for element in figure.iter("text")]


def titles(figure: Element) -> list[str]:
    return [element.text or "" for element in figure.iter("title")]


def stage(part: Part) -> Element:
    return bars("Stages", [Bar("train", "2 kJ", [part])], unit="J", empty="none")


@pytest.mark.parametrize(
    ("most", "unit", "labels", "shown"),
    [
        (1950.0, "J", ["0", "0.5", "1", "1.5", "2"], "kJ"),
        (0.08, "J/sample", ["0", "20", "40", "60", "80"], "mJ/sample"),
        (7.0, "W", ["0", "2", "4", "6", "8"], "W"),
        (0.0, "W", ["0", "0.2", "0.4", "0.6", "0.8", "1"], "W"),
        (1e20, "J", ["0", "20,000,000", "40,000,000", "60,000,000", "80,000,000", "100,000,000"], "TJ"),
    ],
)
def test_axis_begins_at_zero_with_round_ticks(most: float, unit: str, labels: list[str], shown: str) -> None:
    axis = axis_from_zero([most], unit)
    assert [axis.label(tick) for tick in axis.ticks] == labels
    assert axis.unit == shown
    assert axis.high >= most


@pytest.mark.parametrize(
    ("seconds", "unit", "last"), [(90, "s", "80"), (1800, "min", "30"), (86_400, "h", "20"), (600_000, "d", "6")]
)
def test_axis_of_time_ends_at_the_end(seconds: float, unit: str, last: str) -> None:
    axis = axis_of_time(seconds)
    assert (axis.high, axis.unit, axis.label(axis.ticks[-1])) == (seconds, unit, last)


def test_axis_of_epochs_has_whole_numbers() -> None:
    axis = axis_of_numbers(3)
    assert [axis.label(tick) for tick in axis.ticks] == ["0", "1", "2", "3"]
    assert [axis_of_numbers(19).label(tick) for tick in axis_of_numbers(19).ticks] == ["0", "5", "10", "15"]


def test_axis_of_a_metric_fits_its_values() -> None:
    axis = axis_around([0.912, 0.934, float("nan"), float("inf")], "")
    assert 0.9 < axis.low <= 0.912
    assert axis.high >= 0.934
    assert axis_around([2.0], "").low < 2.0 < axis_around([2.0], "").high
    for odd in ([1.7e308, -1.7e308], [5e-324], [0.0, 5e-324], [-1e308]):
        for axis in (axis_around(odd, ""), axis_from_zero(odd, "J"), axis_of_time(odd[-1])):
            assert all(axis.label(tick) and 0 <= axis.share(tick) <= 1 for tick in axis.ticks)
            assert len(axis.ticks) > 1


def test_no_text_is_markup() -> None:
    part = Part(NASTY, 1.0, "blue", NASTY)
    found = [
        bars(NASTY, [Bar(NASTY, NASTY, [part])], unit="J", hint=NASTY, empty=NASTY),
        bars(NASTY, [], unit="J", empty=NASTY),
        lines(NASTY, [Series(NASTY, "blue", [Point(0, 1)])], across=Across(NASTY), name=NASTY, unit="", empty=NASTY),
        scatter(
            NASTY, [Spot(NASTY, 1, 1, "blue", NASTY)], x_name=NASTY, x_unit="J", y_name=NASTY, more_is_better=True, empty=""
        ),
    ]
    assert "<script" not in to_html(*found)
    for figure in found:
        assert not [element for element in fromstring(to_html(figure)).iter() if element.tag == "script"]  # noqa: S314 - our own


def test_bar_shows_interval_and_value() -> None:
    figure = stage(Part("compute", 1900, "blue", "compute 1.9 kJ", 1700, 2100))
    assert titles(figure) == ["compute 1.9 kJ"]
    assert "train 2 kJ" in texts(figure)
    assert [element for element in figure.iter("path") if element.get("class") == "whisker"]


def test_estimated_part_is_hatched() -> None:
    measured, estimated = (to_html(stage(Part("compute", 2, "blue", "", estimated=known))) for known in (False, True))
    assert "url(#mle" in estimated
    assert "compute (estimated)" in estimated
    assert "url(#mle" not in measured
    assert "estimated" not in measured


def test_part_below_zero_has_no_length() -> None:
    parts = [Part("compute", 2, "blue", "compute"), Part("data wait", -0.5, "orange", "wait", -1, 0.2)]
    widths = [float(rect.get("width", "")) for rect in bars("x", [Bar("a", "", parts)], unit="J", empty="").iter("rect")]
    assert min(widths) == 0


def test_empty_picture_says_why() -> None:
    reason = "No device was read."
    unknown = Series("a", "blue", [Point(0, None), Point(1, float("nan"))])
    for figure in (
        bars("x", [Bar("a", "", [])], unit="J", empty=reason),
        lines("x", [unknown], name="y", unit="J", empty=reason),
        areas("x", [unknown], name="y", unit="J", empty=reason),
        scatter("x", [], x_name="", x_unit="", y_name="", more_is_better=True, empty=reason),
    ):
        assert reason in "".join(figure.itertext())
        assert next(figure.iter("svg"), None) is None


def test_line_breaks_where_a_value_is_unknown() -> None:
    points = [Point(i, None if i == 2 else 1.0) for i in range(5)]
    figure = lines("x", [Series("a", "blue", points)], name="y", unit="J", empty="")
    (curve,) = (path.get("d", "") for path in figure.iter("path") if path.get("class") == "curve")
    assert curve.count("M") == 2
    assert "epoch 2\na: unknown" in titles(figure)


def test_hover_names_value_and_interval() -> None:
    figure = lines("x", [Series("train", "blue", [Point(0, 0.08, 0.07, 0.105), Point(1, 0.06)])], name="", unit="J", empty="")
    assert titles(figure)[0] == "epoch 0\ntrain: 80.0 mJ (70 to 105 mJ)"


def test_gap_in_areas_is_hatched() -> None:
    known = Series("gpu 0", "blue", [Point(x, 100.0) for x in range(10)])
    partly = Series("gpu 1", "orange", [Point(x, None if x == 5 else 50.0) for x in range(10)])
    figure = areas("x", [known, partly], across=Across("time", time=True), name="power", unit="W", empty="")
    assert [rect for rect in figure.iter("rect") if rect.get("class") == "gap"]
    assert "Not every device could be read." in titles(figure)


def test_long_series_stay_small_and_keep_their_peaks() -> None:
    points = [Point(x, 1000.0 if x == 777 else 1.0) for x in range(100_000)]
    figure = lines("x", [Series("a", "blue", points)], name="y", unit="W", empty="")
    assert len(to_html(figure)) < 25_000
    assert any("1.00 kW" in title for title in titles(figure))


def test_pareto_front_has_what_nothing_beats() -> None:
    spots = [Spot(name, x, y, "blue", "") for name, x, y in (("a", 1, 5), ("b", 2, 4), ("c", 3, 7), ("d", 3, 6), ("e", 1, 5))]
    assert [spot.label for spot in pareto(spots, more_is_better=True)] == ["a", "c"]
    assert [spot.label for spot in pareto(spots, more_is_better=False)] == ["a", "b"]


def test_names_of_points_do_not_cover_each_other() -> None:
    spots = [Spot(name, x, 1.0, "blue", f"run {name}") for name, x in (("a", 1), ("b", 1.01), ("c", 2))]
    shown = to_html(scatter("x", spots, x_name="", x_unit="J", y_name="", more_is_better=True, empty=""))
    assert [f">{name}</text>" in shown for name in "abc"] == [True, False, True]
    assert "<title>run b</title>" in shown


def test_pictures_are_the_same_for_the_same_numbers() -> None:
    part = Part("compute", 2, "blue", "", estimated=True)
    assert to_html(stage(part)) == to_html(stage(part))


def test_each_colour_has_a_light_and_a_dark_value() -> None:
    assert all(f"--mle-{series_colour(i)}:light-dark(" in style() for i in range(9))


def test_parts_are_below_what_they_are_a_part_of_and_as_wide_as_they_are_large() -> None:
    leaf = Slab("leaf", 1.0, "pink", "leaf: 1 J")
    inner = Slab(NASTY, 3.0, "pink", "inner: 3 J", estimated=True, parts=[leaf, Slab("gone", 0.0, "pink", "gone: 0 J")])
    figure = icicle("Layers", Slab("step", 4.0, "grey", "step: 4 J", parts=[inner]), unit="J", empty="none")
    shapes = {title.text: shape for shape in figure.iter("rect") for title in shape.iter("title")}
    assert list(shapes) == ["step: 4 J", "inner: 3 J", "leaf: 1 J"]
    assert fromstring(to_html(figure)).tag == "figure"  # noqa: S314 - our own
    tops = [float(shape.get("y", "")) for shape in shapes.values()]
    widths = [float(shape.get("width", "")) for shape in shapes.values()]
    assert tops == sorted(set(tops))
    assert [width / widths[0] for width in widths] == pytest.approx([1, 0.75, 0.25], abs=0.001)
    assert {"step", "leaf"} <= set(texts(figure))
    assert sum(shape.get("fill", "").startswith("url(") for shape in figure.iter("rect")) == 1  # the one that is estimated


def test_parts_of_nothing_are_a_reason() -> None:
    figure = icicle("Layers", Slab("step", 0.0, "grey", "step"), unit="J", empty="No step was timed.")
    assert "No step was timed." in "".join(figure.itertext())
