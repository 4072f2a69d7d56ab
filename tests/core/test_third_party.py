"""Providers of anybody's making through a real run: what one of them does wrong is told, and stops nothing."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from loads import steady

from ml_energy_callbacks import EnergyMeter, RunRecord, load_record
from ml_energy_callbacks.carbon import CarbonIntensity, Quote
from ml_energy_callbacks.carbon.third_party import ThirdParty
from ml_energy_callbacks.exceptions import ConfigurationError

KWH = 3.6e6
HOUR = timedelta(hours=1)
FRANCE = 56.039
CLEAN = CarbonIntensity(20.0, "hut", "our own panels", 2026)


class Panels:
    """Tells what a function does with an instant."""

    def __init__(self, tell: Callable[[datetime], Quote]) -> None:
        self._tell = tell

    def quote(self, when: datetime) -> Quote:
        return self._tell(when)


def run(tell: Callable[[datetime], Quote], seconds: float = 0.1) -> RunRecord:
    meter = EnergyMeter(backends=[steady(100.0)], carbon_intensity=Panels(tell), location="FRA", verbose=False)
    begun = time.monotonic()
    with meter, meter.stage("train"):
        time.sleep(seconds)
    assert time.monotonic() - begun < seconds + 1.5
    return meter.record


def test_one_that_reckons_is_taken_at_its_word() -> None:
    record = run(lambda when: Quote(CLEAN, when + timedelta(minutes=5)))
    assert record.total.co2e_grams == pytest.approx(record.total.joules / KWH * 20, rel=1e-6)
    assert (record.carbon.source, record.carbon.intervals) == ("our own panels", [])


def test_each_change_counts_from_its_instant() -> None:
    changes = datetime.now().astimezone() + timedelta(seconds=1)
    record = run(lambda when: Quote(CLEAN, changes) if when < changes else Quote(CarbonIntensity(220.0, None, "x", 1)), 1.8)
    first, second = record.carbon.intervals
    assert (first.intensity_g_per_kwh, second.intensity_g_per_kwh) == (20, 220)
    assert first.ended == second.began
    assert record.total.co2e_grams == pytest.approx((first.joules * 20 + second.joules * 220) / KWH, rel=1e-6)
    assert second.joules > 0.5 * first.joules


def test_ends_in_local_time_lie_as_far_apart_as_they_do_in_utc() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    found = ThirdParty(Panels(lambda when: Quote(CLEAN, (when + HOUR).astimezone(berlin))), CLEAN)
    begins = datetime(2026, 10, 24, 23, tzinfo=UTC)  # two hours before the clocks are put back
    first, second = (found.query_service(when).until for when in (begins, begins + HOUR))
    assert first is not None
    assert second is not None
    assert second - first == HOUR


def _raise(when: datetime) -> Quote:
    msg = f"https://grid.example/?token=s3cret&at={when}"
    raise ValueError(msg)


def _hang(when: datetime) -> Quote:
    time.sleep(30)
    return Quote(CLEAN, when + timedelta(hours=1))


@pytest.mark.parametrize(
    ("tell", "says"),
    [
        (_raise, "Panels returned no intensity (ValueError)."),
        (_hang, "Panels has not answered yet."),
        (lambda when: Quote(CLEAN, when - timedelta(hours=1)), "Panels returned an intensity that had expired."),
        (lambda when: Quote(CLEAN, when.replace(tzinfo=None)), "Panels returned no intensity (TypeError)."),
        (lambda _: Quote(CarbonIntensity(float("nan"), None, "x", None)), "Panels returned no intensity (ConfigurationError)."),
        (lambda _: None, "Panels returned no intensity."),
        (lambda _: Quote(50.0), "Panels returned no intensity."),
    ],
    ids=["raises", "hangs", "ended", "naive", "nan", "nothing", "number"],
)
def test_what_one_does_wrong_is_the_places_figure_and_told(tell: Callable[[datetime], Quote], says: str) -> None:
    record = run(tell)
    assert record.run.status == "completed"
    assert record.total.co2e_grams == pytest.approx(record.total.joules / KWH * FRANCE, rel=1e-6)
    assert [interval.fallback for interval in record.carbon.intervals] == [says]
    assert any(says in warning for warning in record.warnings)
    assert not any("s3cret" in warning for warning in record.warnings)


def test_numbers_of_other_libraries_become_plain_ones(tmp_path: Path) -> None:
    intensity = CarbonIntensity(np.float32(50), None, "a frame", np.int64(2024))
    meter = EnergyMeter(backends=[], carbon_intensity=Panels(lambda _: Quote(intensity)), output_dir=tmp_path, verbose=False)
    with meter:
        pass
    assert load_record(tmp_path).carbon.data_year == 2024


@pytest.mark.parametrize("text", [{"source": None}, {"basis": "LCA"}, {"location": 5}, {"data_year": "x"}, {"g_per_kwh": "y"}])
def test_an_intensity_that_no_record_can_hold_is_refused(text: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="carbon_intensity"):
        CarbonIntensity(**{"g_per_kwh": 1.0, "location": None, "source": "x", "data_year": None, **text})


@pytest.mark.parametrize("wrong", [Panels, {"g": 50}, -1, float("nan")])
def test_what_is_no_provider_is_refused_before_anything_begins(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="carbon_intensity is"):
        EnergyMeter(carbon_intensity=wrong)
    with pytest.raises(ConfigurationError, match="cannot be combined with carbon_intensity; give the place"):
        EnergyMeter(location="auto", carbon_intensity=Panels(lambda _: Quote(CLEAN)))


def test_one_that_changes_all_the_time_holds_nothing_up() -> None:
    asked: list[datetime] = []

    def tell(when: datetime) -> Quote:
        asked.append(when)
        return Quote(CLEAN if len(asked) % 2 else CarbonIntensity(30.0, None, "x", None), when + timedelta(microseconds=1))

    record = run(tell, 1.5)
    assert record.run.status == "completed"
    assert 2 <= len(asked) < 8
    assert 20 <= record.carbon.intensity_g_per_kwh <= 30
