"""When a run of so many hours emits and costs least, by a series of intensities; pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from ml_energy_callbacks.carbon.price import PriceTable
from ml_energy_callbacks.carbon.provider import IntensityProvider
from ml_energy_callbacks.exceptions import ConfigurationError

_STEP = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Start:
    """A run that begins at an instant.

    Attributes:
        begins: When.
        grams: What it emits, in g CO2e.
        cost: What its electricity costs, or None.
    """

    begins: datetime
    grams: float
    cost: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """When to begin.

    Attributes:
        now: The run if it begins now.
        greenest: The one that emits least; of equals, the first.
        cheapest: The one that costs least; None where no price is known.
    """

    now: Start
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

    Args:
        provider: Tells the intensity ahead.
        prices: Prices by the time of day, or None.
        kwh: Energy of the run, drawn evenly.
        duration: Its length.
        now: The earliest begin.
        within: The latest begin is so much later.

    Raises:
        ConfigurationError: The run's length or energy is none, or nobody knows the intensity of now.
    """
    if duration <= timedelta(0) or not kwh > 0 or within < timedelta(0):
        msg = f"A run of {kwh:g} kWh in {duration / timedelta(hours=1):g} h is none; give energy and hours above 0."
        raise ConfigurationError(msg)
    starts = list(_starts(provider, prices, kwh, duration, now, within))
    if not starts:
        msg = "The series ends before a run of that length that begins now would: give a longer series or a shorter run."
        raise ConfigurationError(msg)
    return Plan(
        starts[0],
        min(starts, key=lambda start: start.grams),
        None if prices is None else min(starts, key=lambda start: start.cost or 0.0),
    )


def _starts(
    provider: IntensityProvider,
    prices: PriceTable | None,
    kwh: float,
    duration: timedelta,
    now: datetime,
    within: timedelta,
) -> Iterator[Start]:
    begins = now
    while begins <= now + within:
        grams = cost = 0.0
        instant, end = begins, begins + duration
        while instant < end:
            quote = provider.quote(instant)
            if quote.fallback is not None:
                return
            price = None if prices is None else prices.at(instant)
            changes = [quote.until, None if price is None else price.until, end]
            after = min(change for change in changes if change is not None)
            part = kwh * ((after - instant) / duration)
            grams += part * quote.per_kwh
            cost += 0.0 if price is None else part * price.per_kwh
            instant = after
        yield Start(begins, grams, None if prices is None else cost)
        begins += _STEP - timedelta(seconds=begins.timestamp() % _STEP.total_seconds())
