"""Grams and money while the intensity changes: each joule counts with the rate at which it passed."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from ml_energy_callbacks import EnergyMeter, RunRecord, load_record
from ml_energy_callbacks.carbon import (
    CarbonIntensity,
    Constant,
    IntensitySeries,
    Quote,
    Rates,
    Site,
    choose_provider,
    forecast,
    plan,
    price_table,
    world,
)
from ml_energy_callbacks.carbon.rates import MOST_INTERVALS
from ml_energy_callbacks.carbon.series import load_series
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.report.emissions import carbon_range
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter

START = datetime(2026, 11, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)
KWH = 3.6e6
WORLD = CarbonIntensity(475.0, None, "world", None, assumed=True)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def series(values: Sequence[float], step: timedelta = HOUR) -> IntensitySeries:
    return IntensitySeries([START + i * step for i in range(len(values))], values, "here", "contract.csv", WORLD)


def rates(values: Sequence[float], pue: float = 1.0) -> Rates:
    found = Rates(series(values), None, "EUR", Site(pue))
    found.begin([], START)
    return found


def total(found: Rates, joules: Sequence[float]) -> float:
    return sum(found.amounts(joules).grams)


def test_a_constant_is_joules_times_intensity_and_pue() -> None:
    found = Rates(Constant(CarbonIntensity(100.0, None, "x", None)), price_table(0.25), "EUR", Site(1.5))
    found.begin([], START)
    found.follow([0.0, KWH, 2 * KWH], START + 5 * HOUR)
    assert found.amounts([0.0, KWH, 2 * KWH]) == ([0.0, pytest.approx(150), pytest.approx(300)], [0.0, 0.375, 0.75])
    assert len(found.intervals([0.0, KWH, 2 * KWH])) == 1


def test_each_joule_counts_with_the_rate_at_which_it_passed() -> None:
    found = rates([100, 500])
    found.follow([0.0, 1 * KWH], START + HOUR)
    found.follow([0.0, 1 * KWH, 2 * KWH], START + 2 * HOUR - timedelta(seconds=1))
    assert found.amounts([0.0, 1 * KWH, 2 * KWH]).grams == [0.0, pytest.approx(100), pytest.approx(1000)]
    assert [(i.joules, i.rate.intensity.g_per_kwh) for i in found.intervals([0.0, 1 * KWH, 2 * KWH])] == [
        (1 * KWH, 100),
        (2 * KWH, 500),
    ]


def test_between_two_looks_the_energy_passed_evenly() -> None:
    found = rates([100, 500, 100])
    found.follow([0.0, 3 * KWH], START + timedelta(hours=2.5))
    assert total(found, [0.0, 3 * KWH]) == pytest.approx(1.2 * 100 + 1.2 * 500 + 0.6 * 100)


def test_a_price_goes_by_the_time_of_day() -> None:
    prices = price_table({"22:00": 0.2, "06:00": 0.4})
    assert prices is not None
    found = Rates(Constant(WORLD), replace(prices, zone=timezone(HOUR)), "EUR", Site())
    found.begin([], START + 4 * HOUR)  # five o'clock there
    found.follow([0.0, 4 * KWH], START + 8 * HOUR)
    cost = found.amounts([0.0, 4 * KWH]).cost
    assert cost == [0.0, pytest.approx(0.2 + 3 * 0.4)]
    assert len(found.intervals([0.0, 4 * KWH])) == 1  # the intensity is one and the same


def test_a_price_holds_across_midnight_and_through_days() -> None:
    prices = price_table({"22:00": 0.2, "06:00": 0.4})
    assert prices is not None
    found = Rates(Constant(WORLD), replace(prices, zone=UTC), "EUR", Site())
    found.begin([], START)
    found.follow([0.0, 72 * KWH], START + 72 * HOUR)
    assert found.amounts([0.0, 72 * KWH]).cost == [0.0, pytest.approx(3 * (8 * 0.2 + 16 * 0.4))]


def test_a_price_of_this_machines_time_lives_through_a_change_of_the_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        prices = price_table({"02:30": 0.2, "06:00": 0.4})
        assert prices is not None
        for day in (datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)):
            when = day
            while when < day + 24 * HOUR:
                price = prices.at(when)
                assert price.until is not None
                assert when < price.until <= when + 24 * HOUR
                when = price.until
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("day", [datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)])
@pytest.mark.parametrize(
    "table",
    [
        {"02:30": 1, "06:00": 0},
        {"02:00": 1, "03:00": 0},
        {"02:10": 1, "02:20": 2, "02:50": 3},
        {"01:59": 1, "03:01": 2, "12:00": 0},
        {"00:00": 1, "02:59": 2},
    ],
)
def test_a_price_goes_by_what_the_wall_clock_reads_and_not_by_when_somebody_looked(
    day: datetime, table: dict[str, float]
) -> None:
    prices = price_table(table)
    assert prices is not None
    prices = replace(prices, zone=ZoneInfo("Europe/Berlin"))
    minutes = [day + timedelta(minutes=i) for i in range(40 * 60)]
    expected = [
        max((text, price) for text, price in ({"": [*table.values()][-1]} | table).items() if text <= f"{at:%H:%M}")[1]
        for at in (minute.astimezone(prices.zone) for minute in minutes)
    ]
    assert [prices.at(minute).per_kwh for minute in minutes] == expected
    changes = [i for i in range(1, len(minutes)) if expected[i] != expected[i - 1]]
    for first, minute in enumerate(minutes[: changes[-1]]):
        assert prices.at(minute).until == minutes[next(i for i in changes if i > first)], minute


@pytest.mark.parametrize(("day", "kwh"), [(datetime(2026, 3, 29, tzinfo=UTC), 3.0), (datetime(2026, 10, 25, tzinfo=UTC), 4.0)])
def test_a_run_through_a_change_of_the_clocks_costs_what_the_wall_clock_says(day: datetime, kwh: float) -> None:
    prices = price_table({"02:30": 1, "06:00": 0})
    assert prices is not None
    for begins in (day - 2 * HOUR, day + HOUR / 4):  # and from 2:15 on, the first time
        found = Rates(Constant(WORLD), replace(prices, zone=ZoneInfo("Europe/Berlin")), "EUR", Site())
        found.begin([], begins)
        end = day + 12 * HOUR
        found.follow([0.0, (end - begins) / HOUR * KWH], end)
        assert found.amounts([0.0, (end - begins) / HOUR * KWH]).cost == [0.0, pytest.approx(kwh)]


@pytest.mark.parametrize(
    ("price", "says"),
    [
        (-0.1, "electricity_price is -0.1; give the price of a kWh"),
        (float("nan"), "electricity_price is nan"),
        ({}, "electricity_price contains no price"),
        ({"6 pm": 0.3}, "electricity_price has the time '6 pm'; write it as '06:00'"),
        ({"06:00": 0.3, "06:00:00": 0.2}, "electricity_price has two prices for 06:00"),
        ({"06:00": -1}, "electricity_price is -1"),
        ({"06:00": "cheap"}, "electricity_price is 'cheap'; give the price of a kWh as a number"),
        ("0.3", "electricity_price is '0.3'; give the price of a kWh as a number"),
        (True, "electricity_price is True; give"),
        (10**400, "electricity_price is 1"),
        ({"06:00+01:00": 0.3, "22:00+01:00": 0.2}, r"electricity_price has the time '06:00\+01:00' with an offset"),
        ({"06:00Z": 0.3}, "give times of this machine's clock, such as '06:00'"),
    ],
)
def test_a_price_that_is_none_is_refused(price: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        price_table(price)  # type: ignore[arg-type]


@pytest.mark.parametrize("price", [np.float32(0.25), Decimal("0.25"), np.array(0.25)], ids=repr)
def test_a_price_may_be_a_number_of_another_library(price: Any) -> None:
    assert price_table(price) == price_table(0.25)
    assert price_table({"06:00": price, "22:00": 1}) == price_table({"06:00": 0.25, "22:00": 1})


def test_what_lies_outside_the_series_takes_the_usual_intensity_and_says_so() -> None:
    found = rates([100])
    found.follow([0.0, 2 * KWH], START + 2 * HOUR)
    assert total(found, [0.0, 2 * KWH]) == pytest.approx(100 + 475)
    assert found.fallbacks == [
        "The fallback intensity of the world is used: contract.csv has no value from 2026-11-25T01:00:00+00:00 on."
    ]


def test_a_pause_of_the_meter_uses_nothing() -> None:
    found = rates([100, 500])
    found.follow([0.0, KWH], START + HOUR / 2)
    found.begin([0.0, KWH], START + HOUR * 1.5)
    found.follow([0.0, 2 * KWH], START + HOUR * 1.9)
    assert total(found, [0.0, 2 * KWH]) == pytest.approx(600)


@given(
    values=st.lists(st.floats(0, 2000), min_size=2, max_size=30),
    energies=st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), min_size=1, max_size=40),
    scale=st.floats(0.1, 10),
)
def test_grams_are_linear_and_intervals_add_up(values: list[float], energies: list[tuple[float, float]], scale: float) -> None:
    once, scaled = rates(values, pue=1.2), rates(values, pue=1.2)
    joules = [0.0, 0.0, 0.0]
    for i, (a, b) in enumerate(energies, 1):
        joules = [0.0, joules[1] + a, joules[2] + b]
        now = START + i * timedelta(minutes=20)
        once.follow(joules, now)
        scaled.follow([scale * value for value in joules], now)
    grams = total(once, joules)
    # Grams of much energy at a high intensity may cancel each other out but for their rounding.
    rounding = 1e-9 + 1e-12 * scale * sum(joules) / KWH * max(values)
    assert total(scaled, [scale * value for value in joules]) == pytest.approx(scale * grams, rel=1e-9, abs=rounding)
    intervals = once.intervals(joules)
    assert math.fsum(i.joules for i in intervals) == pytest.approx(sum(joules), rel=1e-9, abs=1e-6)
    weighted = math.fsum(i.joules / KWH * 1.2 * i.rate.intensity.g_per_kwh for i in intervals)
    assert weighted == pytest.approx(grams, rel=1e-9, abs=1e-6)
    assert all(first.ended <= second.began for first, second in pairwise(intervals))


def test_weighting_by_energy_beats_the_plain_mean_on_a_made_up_day() -> None:
    """A run that works while the sun shines: the mean over time is far off."""
    values = [600 - 500 * max(0.0, math.sin(math.pi * (hour - 6) / 12)) for hour in range(24)]
    power = [50 + 950 * max(0.0, math.sin(math.pi * (hour - 6) / 12)) for hour in range(24)]  # W
    found, joules = rates(values), 0.0
    for hour in range(24):
        for _ in range(60):
            joules += power[hour] * 60
            found.follow([0.0, joules], START + hour * HOUR + timedelta(minutes=_ + 1))
    truth = sum(watts * 3600 / KWH * value for watts, value in zip(power, values, strict=True))
    plain = joules / KWH * sum(values) / 24
    assert total(found, [0.0, joules]) == pytest.approx(truth, rel=1e-6)
    assert abs(plain / truth - 1) > 0.5


def test_many_intervals_are_told_together_and_lose_no_gram() -> None:
    values = [float(i % 700) for i in range(5 * MOST_INTERVALS)]
    found = Rates(series(values, timedelta(seconds=1)), None, "EUR", Site())
    found.begin([], START)
    joules = 1000.0 * len(values)
    found.follow([0.0, joules], START + timedelta(seconds=len(values)))
    intervals = found.intervals([0.0, joules])
    assert len(intervals) <= MOST_INTERVALS + 1
    weighted = math.fsum(i.joules / KWH * i.rate.intensity.g_per_kwh for i in intervals)
    assert weighted == pytest.approx(1000 / KWH * sum(values), rel=1e-9)
    assert total(found, [0.0, joules]) == pytest.approx(weighted, rel=1e-9)


def write(path: Path, rows: Sequence[tuple[object, object]], head: str = "time,g_per_kwh") -> Path:
    path.write_text("\n".join([head, *(f"{time},{value}" for time, value in rows)]) + "\n", encoding="utf-8")
    return path


def test_what_was_assumed_is_still_told_when_many_intervals_are_told_together() -> None:
    class Begins:
        """Knows nothing in the first hour."""

        def quote(self, when: datetime) -> Quote:
            hour = (when - START) // HOUR
            until = START + (hour + 1) * HOUR
            if hour < 1:
                return Quote(world(), until, "It has not begun.")
            return Quote(CarbonIntensity(100.0 + hour, "DEU", "a contract", 2026), until)

    found = Rates(Begins(), None, "EUR", Site())
    found.begin([], START)
    found.follow([0.0, 2 * MOST_INTERVALS * KWH], START + 2 * MOST_INTERVALS * HOUR)
    first, *_, last = found.intervals([0.0, 2 * MOST_INTERVALS * KWH])
    assert (first.rate.intensity.assumed, last.rate.intensity.assumed) == (True, False)
    assert first.rate.intensity.source.startswith("world average")
    assert first.rate.intensity.source.endswith("; a contract")


def test_a_csv_file_and_a_parquet_file_tell_the_same(tmp_path: Path) -> None:
    berlin = timezone(HOUR)
    times = [datetime(2026, 11, 25, hour, tzinfo=berlin) for hour in range(4)]
    write(tmp_path / "a.csv", [(time.isoformat(), 100 + i) for i, time in enumerate(times)])
    table = pa.table({"time": times, "g_per_kwh": [100.0, 101.0, 102.0, 103.0]})
    parquet.write_table(table, tmp_path / "a.parquet")
    now = datetime(2026, 11, 25, tzinfo=UTC)
    for name in ("a.csv", "a.parquet"):
        found = load_series(tmp_path / name, "DEU", WORLD, now)
        quote = found.quote(now)
        assert (quote.intensity.g_per_kwh, quote.until, quote.fallback) == (101, now + HOUR, None)
        assert (quote.intensity.source, quote.intensity.location) == (name, "DEU")
        assert found.end == now + 3 * HOUR


@pytest.mark.parametrize("begins", [datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)])
def test_a_series_in_local_time_lives_through_a_change_of_the_clocks(tmp_path: Path, begins: datetime) -> None:
    times = pa.array([begins + i * HOUR for i in range(4)], pa.timestamp("us", tz="Europe/Berlin"))
    parquet.write_table(pa.table({"time": times, "g_per_kwh": [100.0, 200.0, 300.0, 400.0]}), tmp_path / "day.parquet")
    loaded = load_series(tmp_path / "day.parquet", "DEU", WORLD, None)
    given = IntensitySeries(
        [(begins + i * HOUR).astimezone(ZoneInfo("Europe/Berlin")) for i in range(4)], loaded.values, "DEU", "a day", WORLD
    )
    for found in (loaded, given):
        assert found.end == begins + 4 * HOUR
        account = Rates(found, None, "EUR", Site())
        account.begin([], begins)
        account.follow([0.0, 3.5 * KWH], begins + 3.5 * HOUR)
        assert total(account, [0.0, 3.5 * KWH]) == pytest.approx(100 + 200 + 300 + 200)
        ahead = plan(found, None, kwh=1, duration=HOUR, now=begins, within=2 * HOUR)
        assert [ahead.now.grams, ahead.greenest.grams] == [pytest.approx(100)] * 2  # type: ignore[union-attr]


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time,g_per_kwh\n", "contains no value"),
        ("time,grams\n2026-01-01T00:00:00Z,3\n", "has no column g_per_kwh; it must have time and g_per_kwh"),
        ("when,co2\n1,3\n", "has no column g_per_kwh and no column time"),
        ("", "has no column"),
        ("time,g_per_kwh\nyesterday,3\n", "line 2: 'yesterday' is not a time; write it as"),
        ("time,g_per_kwh\n2026-01-01T00:00:00,3\n", "line 2: 2026-01-01T00:00:00 has no offset from UTC"),
        ("time,g_per_kwh\n2026-01-01T00:00:00Z,3\n2026-01-01T01:00:00Z,-3\n", "line 3: '-3' is not an intensity"),
        ("time,g_per_kwh\n2026-01-01T00:00:00Z,nan\n", "line 2: 'nan' is not an intensity"),
        ("time,g_per_kwh\n2026-01-01T00:00:00Z\n", "line 2: has 1 of 2 cells"),
        ("time,g_per_kwh\n2026-01-01T01:00:00Z,3\n2026-01-01T01:00:00Z,3\n", "line 3: .* does not come after .*sort the rows"),
        ("time,g_per_kwh\n2020-01-01T00:00:00Z,3\n", "covers 2020-01-01T00:00:00.00:00 to 2020-01-01T01:.*, but not now, "),
    ],
)
def test_a_series_that_cannot_be_used_is_refused_with_the_place_in_it(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "series.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=says):
        choose_provider("FRA", str(path))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file or directory"):
        choose_provider("FRA", tmp_path / "missing.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ConfigurationError, match=r"broken.parquet cannot be read: "):
        choose_provider("FRA", tmp_path / "broken.parquet")
    (tmp_path / "binary.csv").write_bytes(b"\x00\x81\x00\x01")
    with pytest.raises(ConfigurationError, match=r"binary.csv, line 1: this is no text"):
        choose_provider("FRA", tmp_path / "binary.csv")


def test_a_meter_that_is_started_again_has_one_intensity_all_the_same(clock: ManualClock) -> None:
    counter = ScriptedCounter(PowerCurve(clock, 100.0), clock, period_s=0.02)
    meter = SteppedMeter(clock, backends=[ScriptedBackend([counter])], carbon_intensity=100, verbose=False)
    for _ in range(3):
        with meter, meter.stage("train"):
            clock.advance(0.3)
    record = meter.record
    assert record.carbon.intervals == []
    assert record.carbon.intensity_g_per_kwh == 100
    assert record.total.joules is not None
    assert record.total.co2e_grams == pytest.approx(record.total.joules / KWH * 100)


def test_a_run_through_a_change_weighs_each_part_by_its_energy(clock: ManualClock, tmp_path: Path) -> None:
    began = datetime.now(UTC)
    change = began + timedelta(seconds=2)
    rows = [(began - HOUR, 0), (change, 1000), (change + timedelta(seconds=1.5), 0)]
    path = write(tmp_path / "contract.csv", [(time.isoformat(), value) for time, value in rows])
    counter = ScriptedCounter(PowerCurve(clock, 100.0), clock, period_s=0.02)
    meter = SteppedMeter(
        clock, backends=[ScriptedBackend([counter])], carbon_intensity=path, location="FRA", output_dir=tmp_path, verbose=False
    )
    with meter:
        for stage in ("train", "validate"):
            with meter.stage(stage):  # type: ignore[arg-type]
                for _ in range(40 if stage == "train" else 50):
                    with meter.batch(1):
                        clock.advance(0.05)
    record = load_record(tmp_path)
    carbon = record.carbon
    assert [interval.intensity_g_per_kwh for interval in carbon.intervals] == [0, 1000, 0]
    # 100 W for 1.5 s at 1000 g/kWh; the looks are up to some seconds apart, and between them energy passes evenly here.
    assert record.total.co2e_grams == pytest.approx(150 / KWH * 1000, rel=0.02)
    stages = [stage.co2e_grams for stage in record.stages.values()]
    assert sum(grams for grams in stages if grams is not None) == pytest.approx(record.total.co2e_grams, rel=1e-9)
    assert sum(interval.joules for interval in carbon.intervals) == pytest.approx(record.total.joules, rel=1e-6)
    assert carbon.intensity_g_per_kwh == pytest.approx(record.total.co2e_grams / record.total.joules * KWH)  # type: ignore[operator]
    assert carbon.source == "contract.csv"


def test_a_record_says_what_each_part_of_its_grams_is_by() -> None:
    now = datetime.now(UTC)
    times = [now - HOUR, now - HOUR + timedelta(seconds=1800.5)]  # it ends in a second
    ends = IntensitySeries(times, [20.0, 20.0], None, "contract.csv", world())
    record = scripted_run(carbon_intensity=ends, seconds=2.0)
    carbon = record.carbon
    assert record.total.co2e_grams is not None
    assert (carbon.assumed, carbon.intervals[0].fallback is None, carbon.intervals[-1].fallback is None) == (True, True, False)
    assert "contract.csv" in carbon.source
    assert "world average" in carbon.source
    assert 0 < carbon.fallback_share == carbon.assumed_share < 1
    assumed = sum(i.joules * i.intensity_g_per_kwh for i in carbon.intervals if i.fallback is not None) / KWH
    assert carbon.assumed_share == pytest.approx(assumed / record.total.co2e_grams, rel=1e-6)
    low, high = carbon_range(record) or (0.0, 0.0)
    assert low < record.total.co2e_grams < high
    assert carbon.basis == "unknown"  # nobody said what the contract's figures count


def test_what_is_given_or_told_for_the_time_has_no_doubt_and_a_table_has() -> None:
    lyon = CarbonIntensity(12.0, "Lyon", "our supply contract", 2026)
    for intensity, doubt in ((12.0, 0.0), (lyon, 0.0), ("FRA", 0.2), ("CA-QC", 0.3)):
        place = intensity if isinstance(intensity, str) else None
        given = None if isinstance(intensity, str) else intensity
        with EnergyMeter(backends=[], location=place, carbon_intensity=given, verbose=False) as meter:
            pass
        assert meter.record.carbon.relative_uncertainty == doubt


@pytest.mark.parametrize(
    ("times", "values"),
    [([START, START], [1.0, 2.0]), ([START], [-5.0]), ([START.replace(tzinfo=None)], [1.0]), ([], []), ([START], [math.nan])],
)
def test_what_is_no_series_is_refused(times: list[datetime], values: list[float]) -> None:
    with pytest.raises(ConfigurationError, match=r"The series of x\.csv"):
        IntensitySeries(times, values, None, "x.csv", WORLD)


def scripted_run(seconds: float = 0.3, earlier: RunRecord | None = None, **options: Any) -> RunRecord:
    clock = ManualClock()
    counter = ScriptedCounter(PowerCurve(clock, 100.0), clock, period_s=0.02)
    meter = SteppedMeter(clock, backends=[ScriptedBackend([counter])], verbose=False, **options)
    if earlier is not None:
        meter.resume(earlier)
    with meter, meter.stage("train"), meter.batch(10):
        clock.advance(seconds)
    record = meter.record
    for name, total in (("co2e_grams", record.total.co2e_grams), (f"cost_{record.total.currency.lower()}", record.total.cost)):
        logged = meter.totals().get(f"energy/total/{name}")
        assert logged == (total and pytest.approx(total))  # logger and record say the same
    return record


def test_a_resumed_run_has_the_intensity_of_both_parts() -> None:
    first = scripted_run(carbon_intensity=100.0)
    both = scripted_run(carbon_intensity=300.0, earlier=first)
    assert both.total.kwh is not None
    assert both.total.co2e_grams == pytest.approx(both.total.kwh * both.carbon.intensity_g_per_kwh)
    assert 150 < both.carbon.intensity_g_per_kwh < 250
    assert [i.intensity_g_per_kwh for i in both.carbon.intervals] == [100, 300]
    assumed = scripted_run(earlier=first)
    assert assumed.carbon.assumed
    assert 0.5 < assumed.carbon.assumed_share < 1
    assert not scripted_run(carbon_intensity=300.0, earlier=first).carbon.assumed


def test_a_run_that_went_on_elsewhere_has_the_overhead_of_both_places() -> None:
    first = scripted_run(carbon_intensity=100.0)
    both = scripted_run(carbon_intensity=300.0, earlier=first, pue=2.0)
    assert first.total.kwh is not None
    assert both.total.kwh is not None
    facility = first.total.kwh + 2 * (both.total.kwh - first.total.kwh)
    assert both.total.kwh * both.carbon.pue == pytest.approx(facility)
    assert both.total.co2e_grams == pytest.approx(facility * both.carbon.intensity_g_per_kwh)


def test_what_is_unknown_of_one_part_of_a_resumed_run_is_unknown_of_the_whole() -> None:
    site = {"wue": 1.0, "embodied_kg": 1000, "lifetime_years": 4}
    whole = scripted_run(electricity_price=0.5, **site, earlier=scripted_run(electricity_price=0.5, **site))
    assert None not in {whole.total.cost, whole.carbon.water_litres, whole.carbon.embodied_grams, whole.stages["train"].cost}
    part = scripted_run(electricity_price=0.5, **site, earlier=scripted_run())
    assert (part.total.cost, part.carbon.water_litres, part.carbon.embodied_grams) == (None, None, None)
    mixed = scripted_run(electricity_price=0.5, currency="EUR", earlier=scripted_run(electricity_price=0.5))
    assert mixed.total.cost is None
    assert any("started in USD and continued in EUR" in warning for warning in mixed.warnings)


def test_a_part_whose_energy_is_unknown_leaves_the_whole_unknown(clock: ManualClock) -> None:
    with SteppedMeter(clock, backends=[], verbose=False) as meter, meter.stage("train"), meter.batch(1000):
        clock.advance(1.1)
    both = scripted_run(earlier=meter.record)
    assert both.stages["train"].samples == 1010
    assert (both.stages["train"].joules, both.stages["train"].joules_per_sample) == (None, None)
    assert both.total.joules is None


def test_a_part_that_was_killed_before_it_was_read_is_none() -> None:
    with EnergyMeter(backends=[], verbose=False) as meter:
        pass
    assert scripted_run(earlier=meter.record).total.joules is not None


_MAPS = (
    "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),Carbon intensity gCO₂eq/kWh (Life cycle),"
    "Carbon-free energy percentage (CFE%),Renewable energy percentage (RE%),Data source,Data estimated,Data estimation method\n"
    "2026-11-25 12:00:00,Sweden,Sweden,SE,2.54,30.02,99.42,60.13,svk.se,false,\n"
    "2026-11-25 13:00:00,Sweden,Sweden,SE,3.54,31.5,99.42,60.13,svk.se,true,\n"
)
_OLD_MAPS = (
    "Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO₂eq/kWh (direct),Carbon Intensity gCO₂eq/kWh (LCA),Low %"
    "\n2026-11-25 12:00:00,Sweden,Sweden,SE,2.54,30.02,99\n2026-11-25 13:00:00,Sweden,Sweden,SE,3.54,31.5,99\n"
)
_DIRECT_MAPS = "Datetime (UTC),Zone id,Carbon intensity gCO₂eq/kWh (direct)\n2026-11-25T12:00:00Z,SE,2.54\n"
_MIX = (
    "DATETIME,GAS,COAL,CARBON_INTENSITY,LOW_CARBON\n2026-11-25 12:00:00,8377,15037,529,1\n2026-11-25 12:30:00,8369,14,522,1\n"
)
_ACTUAL = "datetime,forecast,actual,index\n2026-11-25T12:00,120,118,low\n2026-11-25T12:30,125,,low\n"


@pytest.mark.parametrize(
    ("text", "values", "basis", "place", "source"),
    [
        (_MAPS, [30.02, 31.5], "lifecycle", "SE", "Electricity Maps"),
        (_MAPS.replace(",", ";").replace(".", ","), [30.02, 31.5], "lifecycle", "SE", "Electricity Maps"),
        (_OLD_MAPS, [30.02, 31.5], "lifecycle", "SE", "Electricity Maps"),
        (_DIRECT_MAPS, [2.54], "direct", "SE", "Electricity Maps"),
        (_MIX, [529, 522], "direct", "GBR", "NESO"),
        (_ACTUAL, [118, 125], "direct", "GBR", "NESO"),
    ],
    ids=["maps", "excel", "old-maps", "direct-maps", "neso-mix", "neso-actual"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_electricity_maps_and_neso_are_series(
    tmp_path: Path, text: str, values: list[float], basis: str, place: str, source: str, encoding: str
) -> None:
    (tmp_path / "grid.csv").write_text(text, encoding=encoding)
    found = forecast(None, tmp_path / "grid.csv", NOW)
    assert list(found.values) == values
    assert found.times[0] == datetime(2026, 11, 25, 12, tzinfo=UTC)  # a time without an offset is UTC, and the source says so
    intensity = found.quote(found.times[0]).intensity
    assert (intensity.basis, intensity.location) == (basis, place)
    assert intensity.source == f"{source} (grid.csv, times in UTC)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_MAPS.replace("Sweden,SE,3.54", "Norway,NO,3.54"), "line 3: the zone is 'NO', another one than above"),
        (_MAPS.replace(",31.5,", ",,"), "line 3: None is not an intensity"),
        (_MAPS.replace("25 13:00:00", "25 12:00:00"), "line 3: .* does not come after"),
        (_MIX[:-20], "line 3: has 1 of 5 cells"),
    ],
)
def test_faults_of_published_series_are_refused_with_the_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "grid.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=says):
        forecast(None, tmp_path / "grid.csv", NOW)
