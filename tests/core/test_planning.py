"""When a run emits and costs least."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_energy_callbacks.carbon import CarbonIntensity, IntensitySeries, price_table
from ml_energy_callbacks.carbon.planning import plan
from ml_energy_callbacks.exceptions import ConfigurationError

START = datetime(2026, 11, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)
WORLD = CarbonIntensity(475.0, None, "world", None)
DAY = [300.0] * 8 + [200, 100, 50, 50, 100, 200] + [400.0] * 10


def series(values: list[float]) -> IntensitySeries:
    return IntensitySeries([START + i * HOUR for i in range(len(values))], values, "here", "day.csv", WORLD)


def test_the_greenest_start_puts_the_run_into_the_least_intensity() -> None:
    found = plan(series(DAY), None, kwh=4, duration=2 * HOUR, now=START, within=24 * HOUR)
    assert (found.now.grams, found.cheapest) == (pytest.approx(4 * 300), None)
    assert (found.greenest.begins, found.greenest.grams) == (START + 10 * HOUR, pytest.approx(4 * 50))


def test_a_run_of_an_odd_length_is_weighed_by_its_parts() -> None:
    found = plan(series([100, 200, 400]), None, kwh=1.5, duration=1.5 * HOUR, now=START + HOUR / 2, within=timedelta(0))
    assert found.now.grams == pytest.approx(0.5 * 100 + 1.0 * 200)


def test_the_cheapest_start_goes_by_the_price() -> None:
    prices = price_table({"06:00": 0.4, "22:00": 0.2})
    assert prices is not None
    found = plan(series(DAY), replace(prices, zone=UTC), kwh=3, duration=3 * HOUR, now=START + 6 * HOUR, within=15 * HOUR)
    assert found.cheapest is not None
    assert (found.cheapest.begins, found.cheapest.cost) == (START + 21 * HOUR, pytest.approx(0.4 + 0.2 + 0.2))
    assert found.greenest.begins == START + 9.5 * HOUR or found.greenest.grams <= found.cheapest.grams


def test_no_start_is_told_whose_run_the_series_does_not_cover() -> None:
    found = plan(series([500, 400, 300, 1]), None, kwh=1, duration=2 * HOUR, now=START, within=24 * HOUR)
    assert found.greenest.begins == START + 2 * HOUR
    with pytest.raises(ConfigurationError, match="give a longer series or a shorter run"):
        plan(series([500, 400]), None, kwh=1, duration=3 * HOUR, now=START, within=24 * HOUR)


@pytest.mark.parametrize(("kwh", "hours"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_a_run_that_is_none_is_refused(kwh: float, hours: float) -> None:
    with pytest.raises(ConfigurationError, match="is none; give energy and hours above 0"):
        plan(series(DAY), None, kwh=kwh, duration=hours * HOUR, now=START, within=HOUR)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from ml_energy_callbacks.cli import main; main()", "when", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"})


def test_the_command_tells_the_best_start_and_what_it_saves(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    rows = [f"{(now + i * HOUR).isoformat()},{value}" for i, value in enumerate([400, 400, 400, 40, 400, 400])]
    path = tmp_path / "ahead.csv"
    path.write_text("\n".join(["time,g_per_kwh", *rows]), encoding="utf-8")
    options = ("--series", str(path), "--kwh", "2", "--run-hours", "0.5", "--hours", "4")
    found = json.loads(run(*options, "--price", "00:00=0.3", "--json").stdout)
    begins = datetime.fromisoformat(found["greenest"]["begins"])
    assert now + 3 * HOUR <= begins <= now + 3.5 * HOUR
    assert (found["now"]["grams"], found["greenest"]["grams"]) == (pytest.approx(800), pytest.approx(80))
    assert found["cheapest"]["cost"] == pytest.approx(0.6)
    shown = run(*options).stdout
    assert "greenest" in shown
    assert "720 g" in shown
    assert "ahead.csv" in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "Name what is ahead"),
        (("--series", "nowhere.csv"), "nowhere.csv cannot be read"),
        (("--location", "DE"), "set ELECTRICITY_MAPS_TOKEN"),
        (("--location", "DE", "--price", "6=cheap"), "--price '6=cheap' is none"),
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
