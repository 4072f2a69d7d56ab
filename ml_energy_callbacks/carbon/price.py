"""Electricity prices."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from math import ceil, floor
from typing import Any, NamedTuple

from ml_energy_callbacks.carbon.numbers import plain_number
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.safe_text import describe

_MOST_PER_KWH = 1e9
"""In any currency."""


class Price(NamedTuple):
    """A price, valid for some time.

    Attributes:
        per_kwh: Price of one kWh.
        until: End of its validity; None if unknown.
        provisional: Always False.
    """

    per_kwh: float
    until: datetime | None = None
    provisional: bool = False

    def alike(self, other: "Price") -> bool:
        """Return whether another price is equal, apart from the time of its validity."""
        return self.per_kwh == other.per_kwh

    def settled(self) -> "Price":
        """Return the price itself: a price is always final."""
        return self


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by the time of day.

    Attributes:
        times: The time at which each price starts to apply, in order; a single price at midnight applies all the time.
        prices: Price of one kWh from each time on.
        zone: Time zone of the times; None for this machine's.
    """

    times: Sequence[time]
    prices: Sequence[float]
    zone: tzinfo | None = None

    def at(self, when: datetime) -> Price:
        """Return the price at an instant, by the wall clock's time, and the end of its validity in UTC.

        Before the day's first time, the last price applies. A time that is skipped in spring takes effect when the clocks are
        put forward; in the hour that is repeated in autumn, the wall clock's times occur twice.
        """
        if len(self.prices) == 1:
            return Price(self.prices[0])
        local = when.astimezone(self.zone)
        passed = bisect_right(self.times, local.time())
        day = local.date() + timedelta(days=passed // len(self.times))
        begins = datetime.combine(day, self.times[passed % len(self.times)])
        until = when.astimezone(UTC) + (begins - local.replace(tzinfo=None))
        if until.astimezone(self.zone).utcoffset() != local.utcoffset():
            change = _find_clock_change(when, until, self.zone)
            there = bisect_right(self.times, change.astimezone(self.zone).time())
            same = (there - passed) % len(self.times) == 0
            until = (self.at(change).until or change) if same else change
        return Price(self.prices[passed - 1], until)


def _find_clock_change(before: datetime, after: datetime, zone: tzinfo | None) -> datetime:
    """Return the instant, a full second, at which the offset from UTC changes between two instants."""
    offset = before.astimezone(zone).utcoffset()
    seconds = range(floor(before.timestamp()), ceil(after.timestamp()))
    passed = bisect_left(
        seconds, True, key=lambda second: datetime.fromtimestamp(second, UTC).astimezone(zone).utcoffset() != offset
    )
    return datetime.fromtimestamp(seconds.start + passed, UTC)


def price_table(price: float | Mapping[str, float] | None) -> PriceTable | None:
    """Return the prices of the option ``electricity_price``: one number, or one for each time of day.

    Raises:
        ConfigurationError: A price is negative or not a finite number, or a time is invalid or has an offset.
    """
    if price is None:
        return None
    if not isinstance(price, Mapping):
        return PriceTable([time()], [_parse_price(price)])
    if not price:
        msg = "electricity_price contains no price; give one for each time at which it changes: {'06:00': 0.32, '22:00': 0.21}."
        raise ConfigurationError(msg)
    table: dict[time, float] = {}
    for text, value in price.items():
        begins = _parse_time(text)
        if begins in table:
            msg = f"electricity_price has two prices for {begins:%H:%M}; give one for each time."
            raise ConfigurationError(msg)
        table[begins] = _parse_price(value)
    times = sorted(table)
    return PriceTable(times, [table[begin] for begin in times])


def _parse_time(text: str) -> time:
    try:
        begins = time.fromisoformat(text)
    except (TypeError, ValueError):
        msg = f"electricity_price has the time {describe(text)}; write it as '06:00'."
        raise ConfigurationError(msg) from None
    if begins.tzinfo is not None:
        shown = describe(text)
        msg = f"electricity_price has the time {shown} with an offset; give times of this machine's clock, such as '06:00'."
        raise ConfigurationError(msg)
    return begins


def _parse_price(price: Any) -> float:  # noqa: ANN401 - given by the user
    value = plain_number(price)
    if not 0 <= value <= _MOST_PER_KWH:
        msg = f"electricity_price is {describe(price)}; give the price of a kWh as a number of 0 or more, or leave it out."
        raise ConfigurationError(msg)
    return value


def check_currency(currency: object) -> None:
    """Reject an invalid currency code.

    Raises:
        ConfigurationError: It does not have the form of an ISO 4217 code.
    """
    if not (isinstance(currency, str) and re.fullmatch("[A-Za-z]{3}", currency)):
        msg = f"currency is {describe(currency)}; give a three-letter code such as 'EUR'."
        raise ConfigurationError(msg)
