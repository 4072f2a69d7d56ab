"""Start times at which a run emits and costs least, by a series of intensities; pure."""

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
    """A run that starts at a given time.

    Attributes:
        begins: Its start in UTC.
        grams: Its emissions in g CO2e.
        cost: Cost of its electricity; None if no price is known.
        saved_grams: Emissions saved compared with a run that starts now, in g CO2e; None if those are unknown.
        saved_cost: Cost saved compared with a run that starts now; None if either is unknown.
    """

    begins: datetime
    grams: float
    cost: float | None
    saved_grams: float | None
    saved_cost: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The best start times of a run.

    Attributes:
        now: The run if it starts now; None if the intensity is not known for its whole time.
        greenest: The run with the lowest emissions; of equal ones, the first.
        cheapest: The run with the lowest cost; of equal ones, the first; None if no price is known.
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
    """Return the best times to start a run: now, or at a full or half hour within a given time.

    Start times for which the intensity is not known for the whole run are left out.

    Args:
        provider: Provider of the future intensity.
        prices: Prices by the time of day, or None.
        kwh: Energy of the run, at constant power.
        duration: Length of the run.
        now: The earliest start.
        within: Time from the earliest to the latest start.

    Raises:
        ConfigurationError: The run's length or energy is not positive, or the intensity is known for no start time.
    """
    if duration <= timedelta(0) or not (isfinite(kwh) and kwh > 0):
        msg = f"A run of {kwh:g} kWh in {duration / _HOUR:g} h is not possible; give energy and hours above 0."
        raise ConfigurationError(msg)
    if within < timedelta(0):
        msg = f"A run cannot start within {within / _HOUR:g} h; give hours of 0 or more."
        raise ConfigurationError(msg)
    now = now.astimezone(UTC)
    future = _FutureRates(provider, prices, now, now + within + duration)
    runs = {
        begins: run for begins in _start_times(now, within) if (run := future.run_amount(begins, duration, kwh)).unknown == 0
    }
    if not runs:
        msg = (
            f"No start within {within / _HOUR:g} h has a known intensity for a whole run of {duration / _HOUR:g} h: "
            f"{' '.join(future.reasons)} Give other hours, a longer series or a shorter run."
        )
        raise ConfigurationError(msg)
    starts = [_make_start(begins, run, runs.get(now), priced=prices is not None) for begins, run in runs.items()]
    return Plan(
        now=starts[0] if starts[0].begins == now else None,
        greenest=min(starts, key=lambda start: _rounded(start.grams)),
        cheapest=None if prices is None else min(starts, key=lambda start: _rounded(start.cost or 0.0)),
    )


class _Amount(NamedTuple):
    """Emissions of a run in g CO2e, its cost, and its energy at unknown intensity."""

    grams: float
    cost: float
    unknown: float


class _FutureRates:
    """Sums of the future rates per kWh over time.

    Attributes:
        reasons: Why an intensity is unknown, each reason once.
    """

    def __init__(self, provider: IntensityProvider, prices: PriceTable | None, begins: datetime, ends: datetime) -> None:
        """Query the rates between two instants."""
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
            self._sums.append(_add_amount(self._sums[-1], rate, (until - begins) / _HOUR))
            begins = until
        self.reasons = list(dict.fromkeys(reasons))

    def run_amount(self, begins: datetime, duration: timedelta, kwh: float) -> _Amount:
        """Return the amounts of a run that starts at an instant."""
        kilowatts = kwh / (duration / _HOUR)
        return _Amount(
            *(kilowatts * (b - a) for a, b in zip(self._sums_until(begins), self._sums_until(begins + duration), strict=True))
        )

    def _sums_until(self, when: datetime) -> _Amount:
        """Return the sums for 1 kW up to an instant."""
        place = bisect_right(self._times, when) - 1
        return _add_amount(self._sums[place], self._rates[place], (when - self._times[place]) / _HOUR)


def _add_amount(amount: _Amount, rate: _Amount, hours: float) -> _Amount:
    return _Amount(*(a + per_hour * hours for a, per_hour in zip(amount, rate, strict=True)))


def _start_times(now: datetime, within: timedelta) -> Iterator[datetime]:
    begins = now
    while begins <= now + within:
        yield begins
        begins += _STEP - timedelta(seconds=begins.timestamp() % _STEP.total_seconds())


def _make_start(begins: datetime, run: _Amount, now: _Amount | None, *, priced: bool) -> Start:
    return Start(
        begins=begins,
        grams=run.grams,
        cost=run.cost if priced else None,
        saved_grams=None if now is None else _saving(now.grams, run.grams),
        saved_cost=_saving(now.cost, run.cost) if priced and now is not None else None,
    )


def _rounded(amount: float) -> float:
    """Round off the digits in which equal sums may differ."""
    return float(f"{amount:.9g}")


def _saving(now: float, then: float) -> float:
    """Return by how much the second is less; 0 if they differ only by rounding."""
    return 0.0 if isclose(now, then, rel_tol=1e-9) else now - then
