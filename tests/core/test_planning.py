"""When a run emits and costs least."""

import io
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command import ml_energy
from rich.console import Console

from ml_energy_callbacks.carbon import CarbonIntensity, IntensitySeries, Plan, Start, choice, plan, price_table
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.report.schedule import render_plan

START = datetime(2026, 11, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)
WORLD = CarbonIntensity(475.0, None, "world", None)
DAY = [300.0] * 8 + [200, 100, 50, 50, 100, 200] + [400.0] * 10


def series(values: list[float]) -> IntensitySeries:
    return IntensitySeries([START + i * HOUR for i in range(len(values))], values, "here", "day.csv", WORLD)


def test_the_greenest_start_puts_the_run_into_the_least_intensity() -> None:
    found = plan(series(DAY), None, kwh=4, duration=2 * HOUR, now=START, within=24 * HOUR)
    assert found.now is not None
    assert (found.now.grams, found.now.saved_grams, found.cheapest) == (pytest.approx(4 * 300), 0, None)
    assert (found.greenest.saved_grams, found.greenest.saved_cost) == (pytest.approx(4 * 250), None)
    assert (found.greenest.begins, found.greenest.grams) == (START + 10 * HOUR, pytest.approx(4 * 50))


def test_a_run_of_an_odd_length_is_weighed_by_its_parts() -> None:
    found = plan(series([100, 200, 400]), None, kwh=1.5, duration=1.5 * HOUR, now=START + HOUR / 2, within=timedelta(0))
    assert found.now is not None
    assert found.now.grams == pytest.approx(0.5 * 100 + 1.0 * 200)


def test_the_cheapest_start_goes_by_the_price() -> None:
    prices = price_table({"06:00": 0.4, "22:00": 0.2})
    assert prices is not None
    found = plan(series(DAY), replace(prices, zone=UTC), kwh=3, duration=3 * HOUR, now=START + 6 * HOUR, within=15 * HOUR)
    assert found.cheapest is not None
    assert (found.cheapest.begins, found.cheapest.cost) == (START + 21 * HOUR, pytest.approx(0.4 + 0.2 + 0.2))
    assert found.cheapest.saved_cost == pytest.approx(3 * 0.4 - 0.8)
    assert found.greenest.begins == START + 9.5 * HOUR or found.greenest.grams <= found.cheapest.grams


def test_no_start_is_told_whose_run_the_series_does_not_cover() -> None:
    found = plan(series([500, 400, 300, 1]), None, kwh=1, duration=2 * HOUR, now=START, within=24 * HOUR)
    assert found.greenest.begins == START + 2 * HOUR
    with pytest.raises(ConfigurationError, match="a longer series or a shorter run"):
        plan(series([500, 400]), None, kwh=1, duration=3 * HOUR, now=START, within=24 * HOUR)


def test_a_series_that_begins_later_leaves_the_begins_that_it_covers() -> None:
    found = plan(series(DAY), None, kwh=4, duration=2 * HOUR, now=START - HOUR / 3, within=24 * HOUR)
    assert found.now is None
    assert (found.greenest.begins, found.greenest.saved_grams) == (START + 10 * HOUR, None)
    with pytest.raises(ConfigurationError, match=r"within 1 h .* run of 2 h: day.csv has no value before 2026-11-25T00"):
        plan(series(DAY), None, kwh=4, duration=2 * HOUR, now=START - 2 * HOUR, within=HOUR)
    with pytest.raises(ConfigurationError, match=r"run of 2 h: day.csv has no value from 2026-11-26T00:00:00\+00:00 on"):
        plan(series(DAY), None, kwh=4, duration=2 * HOUR, now=START + 23 * HOUR, within=HOUR)


@pytest.mark.parametrize("value", [0.1, 300.0])
@pytest.mark.parametrize("minutes", [0, 7, 29])
def test_of_equal_begins_now_is_the_best(value: float, minutes: int) -> None:
    now = START + timedelta(minutes=minutes)
    prices = price_table({"06:00": 0.3, "22:00": 0.3})
    found = plan(series([value] * 24), prices, kwh=0.7, duration=2.3 * HOUR, now=now, within=20 * HOUR)
    assert found.now == found.greenest == found.cheapest


def test_a_year_of_half_hours_is_planned_at_once() -> None:
    values = [float(300 + i % 48) for i in range(2 * 8784)]
    year = IntensitySeries([START + i * HOUR / 2 for i in range(len(values))], values, "here", "year.csv", WORLD)
    begun = time.monotonic()
    found = plan(year, None, kwh=1, duration=4000 * HOUR, now=START, within=4700 * HOUR)
    assert time.monotonic() - begun < 10  # half a second; reckoned run by run, more than a minute
    assert found.greenest.grams == pytest.approx(323.5, abs=0.2)


@pytest.mark.parametrize(("kwh", "hours"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1), (float("inf"), 1)])
def test_a_run_that_is_none_is_refused(kwh: float, hours: float) -> None:
    with pytest.raises(ConfigurationError, match="is not possible; give energy and hours above 0"):
        plan(series(DAY), None, kwh=kwh, duration=hours * HOUR, now=START, within=HOUR)


def test_a_time_before_now_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot start within -1 h; give hours of 0 or more"):
        plan(series(DAY), None, kwh=1, duration=HOUR, now=START, within=-HOUR)


@pytest.mark.parametrize(
    ("location", "zone"),
    [
        ("France", "FR"),
        ("FRA", "FR"),
        ("fr", "FR"),
        ("DE", "DE"),
        ("GBR", "GB"),
        ("gb", "GB"),
        ("United Kingdom", "GB"),
        ("Great Britain", "GB"),
        ("US-CAL-CISO", "US-CAL-CISO"),
        ("Quebec", "CA-QC"),
        ("SE3", "SE-SE3"),
        ("NO-NO1", "NO-NO1"),
    ],
)
def test_a_place_has_a_zone_of_electricity_maps(location: str, zone: str) -> None:
    assert choice._electricity_maps_zone(location) == zone


def show(found: Plan, currency: str = "EUR") -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(render_plan(found, "day.csv", currency))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_table_shows_what_the_wall_clock_will_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        begins = [datetime(2026, 10, 24, 18, tzinfo=UTC), datetime(2026, 10, 25, 4, tzinfo=UTC)]
        now, later = (Start(when, 5 - i, None, float(i), None) for i, when in enumerate(begins))
        shown = show(Plan(now, later, None))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert "Sat 24 Oct, 20:00 CEST" in shown
    assert "Sun 25 Oct, 05:00 CET" in shown


def test_the_table_has_no_column_of_what_is_not_known() -> None:
    options: dict[str, Any] = {"kwh": 4, "duration": 2 * HOUR, "within": 24 * HOUR}
    shown = show(plan(series(DAY), None, now=START, **options))
    assert shown.count("saves") == 1
    assert "cost" not in shown
    assert "-" not in shown.replace("\u2500", "").replace("day.csv", "")
    priced = show(plan(series(DAY), price_table({"06:00": 0.4, "22:00": 0.2}), now=START, **options))
    assert (priced.count("saves"), priced.count("cost")) == (2, 1)
    late = show(plan(series(DAY), None, now=START - HOUR, **options))
    assert "saves" not in late
    assert "The intensity of a run that begins now is not known." in late


def test_the_table_says_that_now_is_best() -> None:
    options: dict[str, Any] = {"kwh": 4, "duration": 2 * HOUR, "now": START + 10 * HOUR, "within": 4 * HOUR}
    shown = show(plan(series(DAY), None, **options))
    assert "By emissions now is best." in shown
    assert "greenest" not in shown
    assert "By emissions and by price now is best." in show(plan(series(DAY), price_table(0.3), **options))


run = partial(ml_energy, "when", columns=120)


def test_the_command_tells_the_best_start_and_what_it_saves(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    rows = [f"{(now + i * HOUR).isoformat()},{value}" for i, value in enumerate([400, 400, 400, 40, 400, 400])]
    path = tmp_path / "ahead.csv"
    path.write_text("\n".join(["time,g_per_kwh", *rows]), encoding="utf-8")
    options = ("--series", str(path), "--kwh", "2", "--run-hours", "0.5", "--hours", "4")
    found = json.loads(run(*options, "--price", "00:00=0.3", "--currency", "EUR", "--json").stdout)
    assert (found["source"], found["currency"]) == ("ahead.csv", "EUR")
    assert (found["greenest"]["saved_grams"], found["greenest"]["saved_cost"]) == (pytest.approx(720), pytest.approx(0))
    begins = datetime.fromisoformat(found["greenest"]["begins"])
    assert now + 3 * HOUR <= begins <= now + 3.5 * HOUR
    assert (found["now"]["grams"], found["greenest"]["grams"]) == (pytest.approx(800), pytest.approx(80))
    assert found["cheapest"]["cost"] == pytest.approx(0.6)
    later = tmp_path / "later.csv"
    later.write_text("\n".join(["time,g_per_kwh", *rows[2:]]), encoding="utf-8")
    ahead = json.loads(run("--series", str(later), *options[2:], "--json").stdout)
    assert (ahead["now"], ahead["greenest"]["grams"]) == (None, pytest.approx(80))
    shown = run(*options).stdout
    assert "greenest" in shown
    assert "720 g" in shown
    assert "ahead.csv" in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "No forecast is selected"),
        (("--series", "nowhere.csv"), "nowhere.csv cannot be read"),
        (("--location", "DE"), "set ELECTRICITY_MAPS_TOKEN"),
        (("--location", "Frnace"), "The location 'Frnace' is unknown; similar: France (FRA)"),
        (("--location", "France"), "set ELECTRICITY_MAPS_TOKEN"),
        (("--location", "aws:eu-west-3"), "'aws:eu-west-3' is a cloud region"),
        (("--location", "DE", "--hours", "1e12"), "--hours is 1e+12; give a number above 0, 8784 at most."),
        (("--location", "DE", "--hours", "-1"), "--hours is -1; give a number above 0"),
        (("--location", "DE", "--hours", "nan"), "--hours is nan; give a number above 0"),
        (("--location", "DE", "--run-hours", "1e12"), "--run-hours is 1e+12; give a number above 0"),
        (("--location", "DE", "--run-hours", "nan"), "--run-hours is nan; give a number above 0"),
        (("--location", "DE", "--kwh", "inf"), "--kwh is inf; give a number above 0."),
        (("--location", "DE", "--kwh", "nan"), "--kwh is nan; give a number above 0."),
        (("--location", "DE", "--price", "06:00+01:00=0.3"), "has the time '06:00+01:00' with an offset"),
        (("--location", "DE", "--price", "6=cheap"), "--price '6=cheap' is none"),
        (("--location", "DE", "--price", "06:00=0.3", "--price", "06:00=0.2"), "--price has two prices from 06:00 on"),
        (("--location", "DE", "--currency", "Euro"), "currency is 'Euro'"),
    ],
)
def test_the_command_says_in_a_sentence_what_is_wrong(
    options: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ELECTRICITY_MAPS_TOKEN", raising=False)
    done = run(*options)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
