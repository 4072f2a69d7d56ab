"""The range of emissions, and their everyday equivalents."""

import pytest
from msgspec.structs import replace

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report import quantity
from ml_energy_callbacks.report.emissions import carbon_range, emission_lines


@pytest.mark.parametrize(
    ("value", "shown"),
    [(999.4, "999 J"), (999.6, "1,000 J"), (-999.6, "-1,000 J"), (12345.6, "12,346 J"), (0.002, "2.0e-3 J")],
)
def test_a_number_that_is_rounded_up_is_written_as_what_it_then_is(value: float, shown: str) -> None:
    assert quantity(value, "J") == shown


@pytest.fixture
def record() -> RunRecord:
    with EnergyMeter(backends=[], location="FRA", verbose=False) as meter:
        pass
    record = meter.record
    record.total = replace(record.total, joules=3.6e6, kwh=1.0, co2e_grams=56.0, relative_uncertainty=0.15)
    return record


def test_the_range_joins_both_doubts(record: RunRecord) -> None:
    assert carbon_range(record) == (pytest.approx(56 * 0.75), pytest.approx(56 * 1.25))


def test_an_intensity_that_the_user_gave_is_taken_as_it_is(record: RunRecord) -> None:
    record.carbon = replace(record.carbon, relative_uncertainty=0.0)
    assert carbon_range(record) == (pytest.approx(56 * 0.85), pytest.approx(56 * 1.15))


def test_an_assumed_place_may_be_nine_countries_in_ten(record: RunRecord) -> None:
    record.carbon = replace(record.carbon, assumed=True, assumed_share=1.0, intensity_g_per_kwh=475.0)
    record.total = replace(record.total, co2e_grams=475.0, relative_uncertainty=0.0)
    low, high = carbon_range(record) or (0, 0)
    assert 10 < low < 60
    assert 650 < high < 900


def test_the_report_says_what_it_is_like(record: RunRecord) -> None:
    range_line, like = emission_lines(record)
    assert range_line == "Emissions are between 42.0 and 70.0 g CO2e (uncertainty of energy and intensity)."
    assert like == "For comparison: 0.225 km in an average car (249 g/km, EPA), or 111 h of a 9 W LED lamp."


def test_a_small_run_is_compared_with_nothing(record: RunRecord) -> None:
    record.total = replace(record.total, joules=3600.0, co2e_grams=0.056)
    assert len(list(emission_lines(record))) == 1


def test_what_is_not_known_is_like_nothing(record: RunRecord) -> None:
    record.total = replace(record.total, co2e_grams=None)
    assert list(emission_lines(record)) == []
