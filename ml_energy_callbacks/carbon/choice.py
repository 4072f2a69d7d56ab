"""Which intensity a run is reckoned with."""

import os
import re
from datetime import UTC, datetime
from pathlib import Path

from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.live import Here, LiveIntensity, forecast_great_britain, forecast_zone
from ml_energy_callbacks.carbon.places import find_place, world
from ml_energy_callbacks.carbon.provider import Constant, IntensityProvider
from ml_energy_callbacks.carbon.series import IntensitySeries, load_series
from ml_energy_callbacks.carbon.third_party import ThirdParty
from ml_energy_callbacks.codecarbon_data import country_names
from ml_energy_callbacks.exceptions import ConfigurationError, LocationError

Intensity = float | CarbonIntensity | IntensityProvider | str | os.PathLike[str]
"""What the option ``carbon_intensity`` takes."""
_BELOW_A_COUNTRY = re.compile("[A-Z]{2}(-[A-Z0-9]+)+")


def choose_provider(location: str | None, carbon_intensity: Intensity | None) -> IntensityProvider:
    """Return what tells the intensity to reckon with.

    Args:
        location: Country, state, province, bidding zone or cloud's region: see :func:`find_place`; ``"auto"`` to ask a service
            on the network for the place of this machine's address.
        carbon_intensity: Goes before the place's: grams of CO2e per kWh; a :class:`CarbonIntensity`, which names its source; a
            CSV or Parquet file of a time series; or a provider, also one of your own. ``location`` then is a mere label of a
            plain number, and names the place whose figure stands in where a file or a provider of your own tells nothing; what
            knows its place itself does without.

    Raises:
        LocationError: The place is not known.
        ConfigurationError: The intensity is no number from 0 upwards, or the file cannot be used.
    """
    if carbon_intensity is None:
        return Here() if location == "auto" else Constant(_usual(location))
    if isinstance(carbon_intensity, Constant | IntensitySeries | LiveIntensity):
        return carbon_intensity
    if isinstance(carbon_intensity, type):
        msg = f"carbon_intensity is the class {carbon_intensity.__name__}; give an instance of it."
        raise ConfigurationError(msg)
    if isinstance(carbon_intensity, IntensityProvider):
        return ThirdParty(carbon_intensity, _usual(location))
    if isinstance(carbon_intensity, str | os.PathLike):
        return load_series(Path(carbon_intensity), location, _usual(location), datetime.now(UTC))
    if not isinstance(carbon_intensity, CarbonIntensity):
        carbon_intensity = CarbonIntensity(carbon_intensity, location, "given by the user", None)
    return Constant(carbon_intensity)


def forecast(location: str | None, path: Path | None, now: datetime) -> IntensitySeries:
    """Return the intensities ahead: those of a file, or a service's forecast for a place, which is waited for.

    Raises:
        ConfigurationError: Neither is named, or it tells nothing.
        LocationError: The place is not known, or it is a cloud's region.
    """
    if path is not None:
        return load_series(path, location, _usual(location), None)
    if location is None:
        msg = "Name what is ahead: --location GBR, a zone of Electricity Maps such as --location DE, or --series FILE."
        raise ConfigurationError(msg)
    zone = _zone(location)
    return forecast_great_britain(now) if zone == "GB" else forecast_zone(zone)


def _zone(location: str) -> str:
    """Return Electricity Maps' name of a place: ISO 3166-1's two letters for a country, and what is below one as it is.

    Raises:
        LocationError: The place is not known, or is a cloud's region.
    """
    if _BELOW_A_COUNTRY.fullmatch(location):
        return location
    code = find_place(location).location or location
    if _BELOW_A_COUNTRY.fullmatch(code):
        return code
    if country := next((names for names in country_names() if names.alpha_3 == code), None):
        return country.alpha_2
    if code[:2] in {"SE", "NO"}:
        return f"{code[:2]}-{code}"
    msg = f"{location!r} is a cloud's region; name the country, or the zone of https://app.electricitymaps.com that it is in."
    raise LocationError(msg)


def _usual(location: str | None) -> CarbonIntensity:
    """Return the place's figure, or the world's where nobody named one.

    Raises:
        LocationError: The place is not known.
        ConfigurationError: It is to be asked for, although an intensity is given.
    """
    if location == "auto":
        msg = "location='auto' asks a service for the place's intensity, and goes with no carbon_intensity: name the place."
        raise ConfigurationError(msg)
    return world() if location is None else find_place(location)
