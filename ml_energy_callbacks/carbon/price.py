"""What electricity costs."""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from math import isfinite
from typing import Any, NamedTuple

from ml_energy_callbacks.exceptions import ConfigurationError


class Price(NamedTuple):
    """A price for a while.

    Attributes:
        per_kwh: Of one kWh.
        until: It holds until then; None where no end is in sight.
        provisional: Never.
    """

    per_kwh: float
    until: datetime | None = None
    provisional: bool = False

    def alike(self, other: "Price") -> bool:
        """Return whether another one is the same but for the time that it holds."""
        return self.per_kwh == other.per_kwh

    def settled(self) -> "Price":
        """Return it: a price is always known."""
        return self


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by the time of day.

    Attributes:
        times: When each price begins, in order; one that begins at midnight and is alone is the price all the time.
        prices: Price of one kWh from then on.
        zone: Time zone of the times; None for this machine's.
    """

    times: Sequence[time]
    prices: Sequence[float]
    zone: tzinfo | None = None

    def at(self, when: datetime) -> Price:
        """Return the price at an instant, and how long it holds; before the day's first, it is the last one's."""
        if len(self.prices) == 1:
            return Price(self.prices[0])
        local = when.astimezone(self.zone)
        place = bisect_right(self.times, local.time()) - 1
        after = place + 1
        day = local.date() if after < len(self.times) else local.date() + timedelta(days=1)
        begins = datetime.combine(day, self.times[after % len(self.times)])
        # A naive time is this machine's; of one that a change of the clocks leaves out or repeats, the first is meant.
        until = (begins if self.zone is None else begins.replace(tzinfo=self.zone)).astimezone(when.tzinfo)
        return Price(self.prices[place], until if until > when else when + timedelta(hours=1))


def price_table(price: float | Mapping[str, float] | None) -> PriceTable | None:
    """Return the prices that the option ``electricity_price`` tells: one number, or one for each time of day.

    Raises:
        ConfigurationError: A price is no finite number from 0 upwards, or a time is none.
    """
    if price is None:
        return None
    if not isinstance(price, Mapping):
        _check(price)
        return PriceTable([time()], [float(price)])
    if not price:
        msg = "electricity_price holds no price; give one for each time at which it changes: {'06:00': 0.32, '22:00': 0.21}."
        raise ConfigurationError(msg)
    table: dict[time, float] = {}
    for text, value in price.items():
        _check(value)
        try:
            table[time.fromisoformat(text)] = float(value)
        except (TypeError, ValueError):
            msg = f"electricity_price has the time {text!r}; write it as '06:00'."
            raise ConfigurationError(msg) from None
    times = sorted(table)
    return PriceTable(times, [table[begin] for begin in times])


def _check(price: Any) -> None:  # noqa: ANN401 - as the user gives it
    if not (isinstance(price, int | float) and isfinite(price) and price >= 0):
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
