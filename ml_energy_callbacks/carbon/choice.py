"""Selection of the carbon intensity of a run."""

import os
import re
from datetime import UTC, datetime
from pathlib import Path

from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.live import LiveIntensity, NetworkLocation, forecast_great_britain, forecast_zone
from ml_energy_callbacks.carbon.places import find_place, world
from ml_energy_callbacks.carbon.provider import Constant, IntensityProvider
from ml_energy_callbacks.carbon.series import IntensitySeries, load_series
from ml_energy_callbacks.carbon.third_party import ThirdParty
from ml_energy_callbacks.codecarbon_data import country_names
from ml_energy_callbacks.exceptions import ConfigurationError, LocationError

Intensity = float | CarbonIntensity | IntensityProvider | str | os.PathLike[str]
"""Type of the option ``carbon_intensity``."""
_PART_OF_COUNTRY = re.compile("[A-Z]{2}(-[A-Z0-9]+)+")


def choose_provider(location: str | None, carbon_intensity: Intensity | None) -> IntensityProvider:
    """Return the provider of a run's carbon intensity.

    Args:
        location: Country, state, province, bidding zone or cloud region: see :func:`find_place`; ``"auto"`` to look up the
            location of this machine's IP address on the network.
        carbon_intensity: Takes precedence over ``location``: grams of CO2e per kWh; a :class:`CarbonIntensity` with its source;
            a CSV or Parquet file of a time series; or a provider, including one of your own. For a plain number, ``location``
            is then only a label; for a file or a provider of your own, it is the place whose intensity is the fallback; other
            providers do not use it.

    Raises:
        LocationError: The place is unknown.
        ConfigurationError: The intensity is negative or not a number, or the file cannot be used.
    """
    if carbon_intensity is None:
        return NetworkLocation() if location == "auto" else Constant(_place_intensity(location))
    if isinstance(carbon_intensity, Constant | IntensitySeries | LiveIntensity):
        return carbon_intensity
    if isinstance(carbon_intensity, type):
        msg = f"carbon_intensity is the class {carbon_intensity.__name__}; give an instance of it."
        raise ConfigurationError(msg)
    if isinstance(carbon_intensity, IntensityProvider):
        return ThirdParty(carbon_intensity, _place_intensity(location))
    if isinstance(carbon_intensity, str | os.PathLike):
        path = Path(os.path.expanduser(carbon_intensity))  # noqa: PTH111 - the method of Path raises where there is no home
        return load_series(path, location, _place_intensity(location), datetime.now(UTC))
    if not isinstance(carbon_intensity, CarbonIntensity):
        carbon_intensity = CarbonIntensity(carbon_intensity, location, "given by the user", None)
    return Constant(carbon_intensity)


def forecast(location: str | None, path: Path | None, now: datetime) -> IntensitySeries:
    """Return future intensities: those of a file, or a service's forecast for a place, by a blocking request.

    Raises:
        ConfigurationError: Neither is given, or there is no forecast.
        LocationError: The place is unknown, or is a cloud region.
    """
    if path is not None:
        return load_series(path, location, _place_intensity(location), None)
    if location is None:
        msg = (
            "No forecast is selected; give --location GBR, a zone of Electricity Maps such as --location DE, or --series FILE."
        )
        raise ConfigurationError(msg)
    zone = _electricity_maps_zone(location)
    return forecast_great_britain(now) if zone == "GB" else forecast_zone(zone)


def _electricity_maps_zone(location: str) -> str:
    """Return Electricity Maps' name of a place: ISO 3166-1's two letters of a country; parts of a country are unchanged.

    Raises:
        LocationError: The place is unknown, or is a cloud region.
    """
    if _PART_OF_COUNTRY.fullmatch(location):
        return location
    code = find_place(location).location or location
    if _PART_OF_COUNTRY.fullmatch(code):
        return code
    if country := next((names for names in country_names() if names.alpha_3 == code), None):
        return country.alpha_2
    if code[:2] in {"SE", "NO"}:
        return f"{code[:2]}-{code}"
    msg = f"{location!r} is a cloud region; give its country, or its zone from https://app.electricitymaps.com."
    raise LocationError(msg)


def _place_intensity(location: str | None) -> CarbonIntensity:
    """Return the place's intensity, or the world average if no place is given.

    Raises:
        LocationError: The place is unknown.
        ConfigurationError: ``location`` is ``"auto"``, although an intensity is given.
    """
    if location == "auto":
        msg = "location='auto' cannot be combined with carbon_intensity; give the place."
        raise ConfigurationError(msg)
    return world() if location is None else find_place(location)
