"""Joules -> grams of CO2e and money."""

from ml_energy_callbacks.carbon.choice import Intensity, choose_provider
from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.price import check_currency, check_pue, price_table
from ml_energy_callbacks.carbon.provider import Constant, IntensityProvider, Quote
from ml_energy_callbacks.carbon.rates import Amounts, Rates
from ml_energy_callbacks.carbon.series import IntensitySeries

__all__ = [
    "Amounts",
    "CarbonIntensity",
    "Constant",
    "Intensity",
    "IntensityProvider",
    "IntensitySeries",
    "Quote",
    "Rates",
    "check_currency",
    "check_pue",
    "choose_provider",
    "price_table",
]
