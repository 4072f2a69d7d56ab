"""Which intensity a run is reckoned with."""

import os
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.places import find_place, world
from ml_energy_callbacks.carbon.provider import Constant, IntensityProvider
from ml_energy_callbacks.carbon.series import load_series
from ml_energy_callbacks.exceptions import ConfigurationError

Intensity = float | CarbonIntensity | str | os.PathLike[str] | IntensityProvider
"""What the option ``carbon_intensity`` takes."""


def choose_provider(location: str | None, carbon_intensity: Intensity | None) -> IntensityProvider:
    """Return what tells the intensity to reckon with.

    Args:
        location: Country, state, province, bidding zone or cloud's region: see :func:`find_place`.
        carbon_intensity: Goes before the place's: grams of CO2e per kWh; a :class:`CarbonIntensity`, which names its source; a
            CSV or Parquet file of a time series; or a provider. ``location`` then is a mere label of a constant.

    Raises:
        LocationError: The place is not known.
        ConfigurationError: The intensity is no number from 0 upwards, or the file cannot be used.
    """
    if isinstance(carbon_intensity, IntensityProvider):
        return carbon_intensity
    if isinstance(carbon_intensity, str | os.PathLike):
        fallback = world() if location is None else find_place(location)
        return load_series(Path(carbon_intensity), location, fallback, datetime.now(UTC))
    if isinstance(carbon_intensity, CarbonIntensity):
        _check(carbon_intensity.g_per_kwh)
        return Constant(carbon_intensity)
    if carbon_intensity is not None:
        _check(carbon_intensity)
        return Constant(CarbonIntensity(float(carbon_intensity), location, "given by the user", None))
    return Constant(world() if location is None else find_place(location))


def _check(grams_per_kwh: float) -> None:
    if not (isfinite(grams_per_kwh) and grams_per_kwh >= 0):
        msg = f"carbon_intensity is {grams_per_kwh}; give grams of CO2e per kWh, from 0 upwards."
        raise ConfigurationError(msg)
