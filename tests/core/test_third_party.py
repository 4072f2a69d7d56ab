"""Providers of anybody's making through a real run: what one of them does wrong is told, and stops nothing."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from ml_energy_callbacks import EnergyMeter, RunRecord
from ml_energy_callbacks.carbon import CarbonIntensity, Quote
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter

KWH = 3.6e6
FRANCE = 56.039
CLEAN = CarbonIntensity(20.0, "hut", "our own panels", 2026)


class Panels:
    """Tells what a function does with an instant."""

    def __init__(self, tell: Callable[[datetime], Quote]) -> None:
        self._tell = tell

    def quote(self, when: datetime) -> Quote:
        return self._tell(when)


def run(tell: Callable[[datetime], Quote], seconds: float = 0.5) -> RunRecord:
    counter = ScriptedCounter(PowerCurve(monotonic_clock, 100.0), monotonic_clock, period_s=0.02)
    meter = EnergyMeter(backends=[ScriptedBackend([counter])], carbon_intensity=Panels(tell), location="FRA", verbose=False)
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
    record = run(lambda when: Quote(CLEAN, changes) if when < changes else Quote(CarbonIntensity(220.0, None, "x", 1)), 2.2)
    first, second = record.carbon.intervals
    assert (first.intensity_g_per_kwh, second.intensity_g_per_kwh) == (20, 220)
    assert first.ended == second.began
    assert record.total.co2e_grams == pytest.approx((first.joules * 20 + second.joules * 220) / KWH, rel=1e-6)
    assert second.joules > 0.5 * first.joules


def _raise(when: datetime) -> Quote:
    msg = f"https://grid.example/?token=s3cret&at={when}"
    raise ValueError(msg)


def _hang(when: datetime) -> Quote:
    time.sleep(30)
    return Quote(CLEAN, when + timedelta(hours=1))


@pytest.mark.parametrize(
    ("tell", "says"),
    [
        (_raise, "Panels gave no intensity."),
        (_hang, "Panels has not answered yet."),
        (lambda when: Quote(CLEAN, when - timedelta(hours=1)), "Panels told an intensity that had ended."),
        (lambda when: Quote(CLEAN, when.replace(tzinfo=None)), "Panels gave no intensity."),
        (lambda _: Quote(CarbonIntensity(float("nan"), None, "x", None)), "Panels told no intensity."),
        (lambda _: None, "Panels gave no intensity."),
    ],
    ids=["raises", "hangs", "ended", "naive", "nan", "nothing"],
)
def test_what_one_does_wrong_is_the_places_figure_and_told(tell: Callable[[datetime], Quote], says: str) -> None:
    record = run(tell)
    assert record.run.status == "completed"
    assert record.total.co2e_grams == pytest.approx(record.total.joules / KWH * FRANCE, rel=1e-6)
    assert [interval.fallback for interval in record.carbon.intervals] == [says]
    assert any(says in warning for warning in record.warnings)
    assert not any("s3cret" in warning for warning in record.warnings)
