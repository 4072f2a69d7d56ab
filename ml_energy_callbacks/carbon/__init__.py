"""Joules -> grams of CO2e and money."""

from ml_energy_callbacks.carbon.choice import resolve_intensity
from ml_energy_callbacks.carbon.intensity import CarbonIntensity, grams
from ml_energy_callbacks.carbon.price import check_currency, check_price, check_pue, electricity_cost

__all__ = [
    "CarbonIntensity",
    "check_currency",
    "check_price",
    "check_pue",
    "electricity_cost",
    "grams",
    "resolve_intensity",
]
