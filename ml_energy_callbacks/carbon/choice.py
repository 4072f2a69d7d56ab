"""Which intensity a run is reckoned with."""

from math import isfinite

from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.places import find_place, world
from ml_energy_callbacks.exceptions import ConfigurationError


def resolve_intensity(location: str | None, carbon_intensity: float | None) -> CarbonIntensity:
    """Return the intensity to reckon with.

    Args:
        location: Country, state, province, bidding zone or cloud's region: see :func:`find_place`.
        carbon_intensity: Intensity in g CO2e per kWh, which goes before the place's; ``location`` then is a mere label.

    Raises:
        LocationError: The place is not known.
        ConfigurationError: The intensity is no number from 0 upwards.
    """
    if carbon_intensity is not None:
        if not (isfinite(carbon_intensity) and carbon_intensity >= 0):
            msg = f"carbon_intensity is {carbon_intensity}; give grams of CO2e per kWh, from 0 upwards."
            raise ConfigurationError(msg)
        return CarbonIntensity(float(carbon_intensity), location, "given by the user", None)
    return world() if location is None else find_place(location)
