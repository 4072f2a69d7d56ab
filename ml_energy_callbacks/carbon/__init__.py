"""Convert joules to grams of CO2e and money."""

from ml_energy_callbacks.carbon.choice import Intensity, choose_provider, forecast
from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.live import ElectricityMaps, NationalGrid
from ml_energy_callbacks.carbon.places import world
from ml_energy_callbacks.carbon.planning import Plan, Start, plan
from ml_energy_callbacks.carbon.price import check_currency, price_table
from ml_energy_callbacks.carbon.provider import Constant, IntensityProvider, Quote
from ml_energy_callbacks.carbon.rates import Amounts, Rates
from ml_energy_callbacks.carbon.series import IntensitySeries
from ml_energy_callbacks.carbon.site import Site

__all__ = [
    "Amounts",
    "CarbonIntensity",
    "Constant",
    "ElectricityMaps",
    "Intensity",
    "IntensityProvider",
    "IntensitySeries",
    "NationalGrid",
    "Plan",
    "Quote",
    "Rates",
    "Site",
    "Start",
    "check_currency",
    "choose_provider",
    "forecast",
    "plan",
    "price_table",
    "world",
]
