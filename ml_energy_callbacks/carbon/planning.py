"""When a run of so many hours emits and costs least, by a series of intensities; pure."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isclose, isfinite
from typing import NamedTuple

from ml_energy_callbacks.carbon.price import PriceTable
from ml_energy_callbacks.carbon.provider import IntensityProvider
from ml_energy_callbacks.exceptions import ConfigurationError

_STEP = timedelta(minutes=30)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Start:
    """A run that begins at an instant.

    Attributes:
        begins: When, in UTC.
        grams: What it emits, in g CO2e.
        cost: What its electricity costs, or None where no price is known.
        saved_grams: By how much that is less than of a run that begins now, in g CO2e; None where that one's is not known.
        saved_cost: The same of its cost; None where one of the two is not known.
    """

    begins: datetime
    grams: float
    cost: float | None
    saved_grams: float | None
    saved_cost: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """When to begin.

    Attributes:
        now: The run if it begins now; None where the intensity of all its time is not known.
        greenest: The one that emits least; of equals, the first.
        cheapest: The one that costs least; of equals, the first; None where no price is known.
    """

    now: Start | None
    greenest: Start
    cheapest: Start | None


def plan(
    provider: IntensityProvider,
    prices: PriceTable | None,
    *,
    kwh: float,
    duration: timedelta,
    now: datetime,
    within: timedelta,
) -> Plan:
    """Return when a run is best begun: now, or at one of the full and half hours within a time.

    A begin from which the intensity is not known for all of the run is no choice.

    Args:
        provider: Tells the intensity ahead.
        prices: Prices by the time of day, or None.
        kwh: Energy of the run, drawn evenly.
        duration: Its length.
        now: The earliest begin.
        within: The latest begin is so much later.

    Raises:
        ConfigurationError: The run's length or energy is none, or there is no begin from which the intensity is known.
    """
    if duration <= timedelta(0) or not (isfinite(kwh) and kwh > 0):
        msg = f"A run of {kwh:g} kWh in {duration / _HOUR:g} h is none; give energy and hours above 0."
        raise ConfigurationError(msg)
    if within < timedelta(0):
        msg = f"A run cannot begin within {within / _HOUR:g} h; give hours from 0 upwards."
        raise ConfigurationError(msg)
    now = now.astimezone(UTC)
    ahead = _Ahead(provider, prices, now, now + within + duration)
    runs = {begins: run for begins in _begins(now, within) if (run := ahead.run(begins, duration, kwh)).unknown == 0}
    if not runs:
        msg = (
            f"From no begin within {within / _HOUR:g} h is the intensity known for a run of {duration / _HOUR:g} h: "
            f"{' '.join(ahead.reasons)} Begin at other hours, or give a longer series or a shorter run."
        )
        raise ConfigurationError(msg)
    starts = [_start(begins, run, runs.get(now), priced=prices is not None) for begins, run in runs.items()]
    return Plan(
        now=starts[0] if starts[0].begins == now else None,
        greenest=min(starts, key=lambda start: _rounded(start.grams)),
        cheapest=None if prices is None else min(starts, key=lambda start: _rounded(start.cost or 0.0)),
    )


class _Amount(NamedTuple):
    """What a run emits in g CO2e and costs, and what share of it is of unknown intensity."""

    grams: float
    cost: float
    unknown: float


class _Ahead:
    """Sums over the time to come of the rates per kWh.

    Attributes:
        reasons: Why an intensity is not known, each reason once.
    """

    def __init__(self, provider: IntensityProvider, prices: PriceTable | None, begins: datetime, ends: datetime) -> None:
        """Ask for the rates from an instant to another."""
        self._times: list[datetime] = []
        self._rates: list[_Amount] = []
        self._sums = [_Amount(0.0, 0.0, 0.0)]
        reasons = []
        while begins < ends:
            quote = provider.quote(begins)
            price = None if prices is None else prices.at(begins)
            changes = (quote.until, None if price is None else price.until, ends)
            until = min(change for change in changes if change is not None)
            if quote.fallback is not None:
                reasons.append(quote.fallback)
            rate = _Amount(quote.per_kwh, 0.0 if price is None else price.per_kwh, float(quote.fallback is not None))
            self._times.append(begins)
            self._rates.append(rate)
            self._sums.append(_plus(self._sums[-1], rate, (until - begins) / _HOUR))
            begins = until
        self.reasons = list(dict.fromkeys(reasons))

    def run(self, begins: datetime, duration: timedelta, kwh: float) -> _Amount:
        """Return what a run from an instant on amounts to."""
        kilowatts = kwh / (duration / _HOUR)
        return _Amount(*(kilowatts * (b - a) for a, b in zip(self._until(begins), self._until(begins + duration), strict=True)))

    def _until(self, when: datetime) -> _Amount:
        """Return the sums of a kW up to an instant."""
        place = bisect_right(self._times, when) - 1
        return _plus(self._sums[place], self._rates[place], (when - self._times[place]) / _HOUR)


def _plus(amount: _Amount, rate: _Amount, hours: float) -> _Amount:
    return _Amount(*(a + per_hour * hours for a, per_hour in zip(amount, rate, strict=True)))


def _begins(now: datetime, within: timedelta) -> Iterator[datetime]:
    begins = now
    while begins <= now + within:
        yield begins
        begins += _STEP - timedelta(seconds=begins.timestamp() % _STEP.total_seconds())


def _start(begins: datetime, run: _Amount, now: _Amount | None, *, priced: bool) -> Start:
    return Start(
        begins=begins,
        grams=run.grams,
        cost=run.cost if priced else None,
        saved_grams=None if now is None else _less(now.grams, run.grams),
        saved_cost=_less(now.cost, run.cost) if priced and now is not None else None,
    )


def _rounded(amount: float) -> float:
    """Leave out the digits in which sums that are equal may differ."""
    return float(f"{amount:.9g}")


def _less(now: float, then: float) -> float:
    """Return by how much the second is less; nothing where rounding alone tells them apart."""
    return 0.0 if isclose(now, then, rel_tol=1e-9) else now - then
