"""What electricity costs."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from math import ceil, floor, isfinite
from typing import Any, NamedTuple

from ml_energy_callbacks.carbon.numbers import plain
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
        """Return the price at an instant, by what the wall clock reads then, and until when it holds, in UTC.

        Before the day's first time it is the last one's. A time that the clocks leave out in spring begins as they are put
        forward; in the hour that they repeat in autumn, the wall clock's times pass twice.
        """
        if len(self.prices) == 1:
            return Price(self.prices[0])
        local = when.astimezone(self.zone)
        passed = bisect_right(self.times, local.time())
        day = local.date() + timedelta(days=passed // len(self.times))
        begins = datetime.combine(day, self.times[passed % len(self.times)])
        until = when.astimezone(UTC) + (begins - local.replace(tzinfo=None))
        if until.astimezone(self.zone).utcoffset() != local.utcoffset():
            change = _clock_change(when, until, self.zone)
            there = bisect_right(self.times, change.astimezone(self.zone).time())
            same = (there - passed) % len(self.times) == 0
            until = (self.at(change).until or change) if same else change
        return Price(self.prices[passed - 1], until)


def _clock_change(before: datetime, after: datetime, zone: tzinfo | None) -> datetime:
    """Return when the clocks were changed between two instants of different offsets from UTC, which is at a full second."""
    offset = before.astimezone(zone).utcoffset()
    seconds = range(floor(before.timestamp()), ceil(after.timestamp()))
    passed = bisect_left(
        seconds, True, key=lambda second: datetime.fromtimestamp(second, UTC).astimezone(zone).utcoffset() != offset
    )
    return datetime.fromtimestamp(seconds.start + passed, UTC)


def price_table(price: float | Mapping[str, float] | None) -> PriceTable | None:
    """Return the prices that the option ``electricity_price`` tells: one number, or one for each time of day.

    Raises:
        ConfigurationError: A price is no finite number from 0 upwards, or a time is none or has an offset.
    """
    if price is None:
        return None
    if not isinstance(price, Mapping):
        return PriceTable([time()], [_price(price)])
    if not price:
        msg = "electricity_price holds no price; give one for each time at which it changes: {'06:00': 0.32, '22:00': 0.21}."
        raise ConfigurationError(msg)
    table: dict[time, float] = {}
    for text, value in price.items():
        begins = _time(text)
        if begins in table:
            msg = f"electricity_price has two prices from {begins:%H:%M} on; give one for each time."
            raise ConfigurationError(msg)
        table[begins] = _price(value)
    times = sorted(table)
    return PriceTable(times, [table[begin] for begin in times])


def _time(text: str) -> time:
    try:
        begins = time.fromisoformat(text)
    except (TypeError, ValueError):
        msg = f"electricity_price has the time {text!r}; write it as '06:00'."
        raise ConfigurationError(msg) from None
    if begins.tzinfo is not None:
        msg = f"electricity_price has the time {text!r} with an offset; it goes by this machine's clock: write it as '06:00'."
        raise ConfigurationError(msg)
    return begins


def _price(price: Any) -> float:  # noqa: ANN401 - as the user gives it
    value = plain(price)
    if not (isfinite(value) and value >= 0):
        msg = f"electricity_price is {price!r}; give the price of a kWh as a number from 0 upwards, or leave it out."
        raise ConfigurationError(msg)
    return value


def check_currency(currency: str) -> None:
    """Refuse what is no currency code.

    Raises:
        ConfigurationError: It has not the form of an ISO 4217 code.
    """
    if not re.fullmatch("[A-Za-z]{3}", str(currency)):
        msg = f"currency is {currency!r}; give a three-letter code such as 'EUR'."
        raise ConfigurationError(msg)
