"""Joules become grams and money, or the place is said to be unknown."""

import pytest

from ml_energy_callbacks.carbon import electricity_cost, grams, resolve_intensity
from ml_energy_callbacks.exceptions import ConfigurationError, LocationError


@pytest.mark.parametrize("place", ["FRA", "FR", "fr", "France", " france "])
def test_a_country_is_known_by_code_and_by_name(place: str) -> None:
    intensity = resolve_intensity(place, None)
    assert (intensity.location, intensity.g_per_kwh, intensity.assumed) == ("FRA", 56.039, False)
    assert intensity.data_year == 2023


def test_nobody_named_a_place_so_the_world_is_assumed() -> None:
    intensity = resolve_intensity(None, None)
    assert (intensity.g_per_kwh, intensity.location, intensity.assumed) == (475, None, True)


def test_an_explicit_intensity_goes_before_the_place() -> None:
    assert resolve_intensity("our own roof", 12.5).g_per_kwh == 12.5


def test_an_unknown_place_is_refused_with_its_neighbours() -> None:
    with pytest.raises(LocationError, match="'Frnce'; near it: FRA"):
        resolve_intensity("Frnce", None)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_an_impossible_intensity_is_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match="carbon_intensity"):
        resolve_intensity(None, value)


def test_grams_and_cost_include_pue() -> None:
    assert grams(3.6e6, resolve_intensity(None, 100), 1.5) == pytest.approx(150)
    assert electricity_cost(7.2e6, 0.25, 1.2) == pytest.approx(0.6)
