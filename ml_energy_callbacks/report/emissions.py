"""The range of a run's emissions, and everyday equivalents of emissions and energy."""

from collections.abc import Iterator
from math import hypot

from ml_energy_callbacks.carbon import world
from ml_energy_callbacks.codecarbon_data import countries
from ml_energy_callbacks.metrics import JOULES_PER_WH
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.quantities import column, quantity, scaled

_GRAMS_PER_KM = 400 / 1.609344
"""EPA, "Greenhouse Gas Emissions from a Typical Passenger Vehicle" (EPA-420-F-23-014): about 400 g CO2 a mile."""

_LAMP_WATTS = 9.0
"""An LED lamp as bright as a 60 W bulb; US Department of Energy, "Lumens and the Lighting Facts Label": 800 lumens."""

_METRES_PER_KM = 1000.0
_LEAST_METRES = 100.0
"""A shorter way says nothing, and neither does a shorter time than an hour of a lamp."""


def carbon_range(record: RunRecord) -> tuple[float, float] | None:
    """Return the lower and upper bound of the run's emissions in g CO2e, from the uncertainty of energy and intensity.

    If no location was set, the range covers the intensities of nine countries in ten. Energy that is missing from the record is
    not in it. None where either is unknown, as of a run that another tool measured.
    """
    total, carbon = record.total, record.carbon
    if total.co2e_grams is None or (total.joules and total.relative_uncertainty is None):
        return None
    energy = total.relative_uncertainty or 0.0
    both = hypot(energy, carbon.relative_uncertainty)
    assumed = carbon.assumed_share if carbon.assumed else 0.0
    low = high = 1.0
    if assumed:
        values = sorted(country.g_per_kwh for country in countries().rows)
        low, high = (values[round(share * (len(values) - 1))] / world().g_per_kwh for share in (0.05, 0.95))
    return (
        total.co2e_grams * ((1 - assumed) * max(0.0, 1 - both) + assumed * low * max(0.0, 1 - energy)),
        total.co2e_grams * ((1 - assumed) * (1 + both) + assumed * high * (1 + energy)),
    )


def emission_lines(record: RunRecord) -> Iterator[str]:
    """Return lines on the range of the emissions, and on what emissions and energy compare with, if they are large enough."""
    limits = carbon_range(record)
    if limits is None or record.total.joules is None or not record.total.co2e_grams:
        return
    reasons = (
        "uncertainty of the energy, and the intensities of nine countries in ten"
        if record.carbon.assumed
        else "uncertainty of energy and intensity"
    )
    if record.lower_bound:
        yield f"Emissions are at least {scaled(limits[0], 'g CO2e', 2)} ({reasons}); part of the energy is missing."
    else:
        unit, (low, high) = column(limits, "g CO2e")
        yield f"Emissions are between {low} and {high} {unit} ({reasons})."
    metres = record.total.co2e_grams / _GRAMS_PER_KM * _METRES_PER_KM
    hours = record.total.joules / JOULES_PER_WH / _LAMP_WATTS
    like = [
        *([f"{quantity(metres / _METRES_PER_KM, 'km')} in an average car (249 g/km, EPA)"] if metres >= _LEAST_METRES else []),
        *([f"{quantity(hours, 'h')} of a 9 W LED lamp"] if hours >= 1 else []),
    ]
    if like:
        yield f"For comparison: {', or '.join(like)}."
