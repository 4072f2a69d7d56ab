"""What electricity costs."""

import re
from math import isfinite

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import JOULES_PER_KWH


def check_price(price: float | None) -> None:
    """Refuse a price that is none.

    Raises:
        ConfigurationError: It is no finite number from 0 upwards.
    """
    if price is not None and not (isfinite(price) and price >= 0):
        msg = f"electricity_price is {price}; give the price of a kWh, from 0 upwards, or leave it out."
        raise ConfigurationError(msg)


def check_currency(currency: str) -> None:
    """Refuse what is no currency code.

    Raises:
        ConfigurationError: It has not the form of an ISO 4217 code.
    """
    if not re.fullmatch("[A-Za-z]{3}", currency):
        msg = f"currency is {currency!r}; give a three-letter code such as 'EUR'."
        raise ConfigurationError(msg)


def check_pue(pue: float) -> None:
    """Refuse an impossible power usage effectiveness.

    Raises:
        ConfigurationError: It is below 1 or no finite number.
    """
    if not (isfinite(pue) and pue >= 1):
        msg = f"pue is {pue}; it is the data centre's energy over its IT energy, 1.0 or more."
        raise ConfigurationError(msg)


def electricity_cost(joules: float, price: float, pue: float) -> float:
    """Return the cost of so many joules of IT energy, in the price's currency.

    Args:
        joules: Energy of the devices in J.
        price: Of one kWh.
        pue: Power usage effectiveness.
    """
    return joules / JOULES_PER_KWH * pue * price
