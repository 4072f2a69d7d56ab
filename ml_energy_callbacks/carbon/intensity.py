"""How many grams of CO2e a kilowatt-hour stands for, by place."""

import difflib
from dataclasses import dataclass
from math import isfinite

from ml_energy_callbacks.codecarbon_data import energy_mixes, world_average
from ml_energy_callbacks.exceptions import ConfigurationError, LocationError
from ml_energy_callbacks.metrics import JOULES_PER_KWH


@dataclass(frozen=True, slots=True)
class CarbonIntensity:
    """An intensity and where it comes from.

    Attributes:
        g_per_kwh: Grams CO2e for each kWh.
        location: ISO-3 code of the country, or what the user called the place; None where nobody named one.
        source: Who publishes the figure.
        data_year: Year that it stands for, or None where the source does not say.
        assumed: True where nobody named a place or an intensity.
    """

    g_per_kwh: float
    location: str | None
    source: str
    data_year: int | None
    assumed: bool


def resolve_intensity(location: str | None, carbon_intensity: float | None) -> CarbonIntensity:
    """Return the intensity to reckon with.

    Args:
        location: Country, by its ISO 3166 code (two or three letters) or English name.
        carbon_intensity: Intensity in g CO2e per kWh, which goes before the country's; ``location`` then is a mere label.

    Raises:
        LocationError: The place is not known.
        ConfigurationError: The intensity is no number from 0 upwards.
    """
    if carbon_intensity is not None:
        if not (isfinite(carbon_intensity) and carbon_intensity >= 0):
            msg = f"carbon_intensity is {carbon_intensity}; give grams of CO2e per kWh, from 0 upwards."
            raise ConfigurationError(msg)
        return CarbonIntensity(float(carbon_intensity), location, "given by the user", None, assumed=False)
    if location is None:
        average, source = world_average()
        return CarbonIntensity(average, None, f"World average, {source}", None, assumed=True)
    code = _country(location)
    mix = energy_mixes()[code]
    return CarbonIntensity(
        float(mix["carbon_intensity"]), code, "Our World in Data, codecarbon's table", int(mix["year"]), assumed=False
    )


def _country(location: str) -> str:
    """Return the ISO-3 code of a country in the table."""
    import pycountry  # noqa: PLC0415 - 40 ms, wanted only where somebody names a place

    wanted = location.strip().casefold()
    names = {str(mix["country_name"]).casefold(): code for code, mix in energy_mixes().items()}
    if wanted in names:
        return names[wanted]
    try:
        code: str = pycountry.countries.lookup(wanted).alpha_3
    except LookupError:
        near = difflib.get_close_matches(wanted, [*names, *(code.casefold() for code in energy_mixes())], n=3)
        codes = ", ".join(dict.fromkeys(names.get(name, name.upper()) for name in near))
        hint = f"; near it: {codes}" if codes else ""
        msg = f"There is no country {location!r}{hint}. Give an ISO code such as 'FRA', or carbon_intensity=<g per kWh>."
        raise LocationError(msg) from None
    if code not in energy_mixes():
        msg = f"No carbon intensity of {location!r} is known; give carbon_intensity=<g per kWh>."
        raise LocationError(msg)
    return code


def grams(joules: float, intensity: CarbonIntensity, pue: float) -> float:
    """Return the emissions of so many joules of IT energy in g CO2e.

    Args:
        joules: Energy of the devices in J.
        intensity: Of the electricity.
        pue: Power usage effectiveness: the data centre's energy over its IT energy.
    """
    return joules / JOULES_PER_KWH * pue * intensity.g_per_kwh
