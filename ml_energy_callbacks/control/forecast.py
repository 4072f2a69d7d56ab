"""Forecast of the energy, emissions, cost and time of a training, from its epochs so far; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import hypot
from statistics import fmean

from ml_energy_callbacks.attribution.student_t import quantile
from ml_energy_callbacks.record.schema import ForecastRecord

_FIRST_SPREAD, _FIRST_WEIGHT = 0.1, 4
"""Prior assumption: epochs differ by 10 %, with the weight of four comparisons between epochs."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Energy, time, emissions and cost up to an instant.

    Attributes:
        done: Completed share of the training, 0 to 1.
        kwh: Energy in kWh.
        seconds: Time in s.
        apart_kwh: Part of the energy that does not recur in each epoch: compilation, and validations that are not part of
            every epoch.
        apart_seconds: The same for the time.
        validations: Number of completed validations that are not part of every epoch, measured or not.
        validation_kwh: Energy of the measured ones among them in kWh.
        validation_seconds: Their time in s.
        co2e_grams: Emissions in g CO2e, or None.
        cost: Cost, or None.
    """

    done: float
    kwh: float
    seconds: float
    apart_kwh: float = 0.0
    apart_seconds: float = 0.0
    validations: int = 0
    validation_kwh: float = 0.0
    validation_seconds: float = 0.0
    co2e_grams: float | None = None
    cost: float | None = None


class Forecaster:
    """Forecasts a training, assuming that the remaining epochs are like the mean of the completed ones."""

    def __init__(self, start: Spent) -> None:
        """Begin at the start of the first epoch."""
        self._epochs = [start]

    def forecast_after(self, spent: Spent, now: datetime, validations: int = 0) -> ForecastRecord | None:
        """Add an epoch, and return the forecast of the whole training.

        The interval is that of the sum of the remaining epochs, normally distributed about an unknown mean, with a scaled
        inverse chi-squared prior of their variance (Gelman et al., Bayesian Data Analysis, 3rd ed., 3.3 and 3.9).

        Args:
            spent: What was used up to the end of the epoch.
            now: The wall-clock time.
            validations: Number of remaining validations that are not part of every epoch.

        Returns:
            None if no forecast is possible: no progress, or validations remain and none has been completed.
        """
        before = self._epochs[-1]
        if spent.done <= before.done:
            return None
        self._epochs.append(spent)
        start = self._epochs[0]  # earlier validations may belong to another training or process
        validated = spent.validations - start.validations
        if validations and not validated:
            return None
        kwh_rates = _rates_by_epoch(self._epochs, [each.kwh - each.apart_kwh for each in self._epochs])
        second_rates = _rates_by_epoch(self._epochs, [each.seconds - each.apart_seconds for each in self._epochs])
        left = max(0.0, 1 - spent.done)
        mean = fmean(kwh_rates)
        count = len(kwh_rates)
        epoch = (spent.done - start.done) / count
        variance = sum((rate - mean) ** 2 for rate in kwh_rates) + _FIRST_WEIGHT * (_FIRST_SPREAD * mean) ** 2
        freedom = count - 1 + _FIRST_WEIGHT
        spread = (variance / freedom) ** 0.5 * epoch  # of one epoch
        coming = left / epoch
        repeated = validations / (validated or 1)
        validating = repeated * (spent.validation_kwh - start.validation_kwh)
        expected = mean * left + validating
        seconds = fmean(second_rates) * left + repeated * (spent.validation_seconds - start.validation_seconds)
        half = quantile(freedom) * hypot(spread * (coming + coming**2 / count) ** 0.5, _FIRST_SPREAD * validating)
        per_kwh = [_rate_per_kwh(before, spent, name) for name in ("co2e_grams", "cost")]
        grams, cost = (None if price is None else so_far + price * expected for so_far, price in per_kwh)
        return ForecastRecord(
            after_epochs=count,
            kwh=spent.kwh + expected,
            kwh_low=spent.kwh + max(0.0, expected - half),
            kwh_high=spent.kwh + expected + half,
            co2e_grams=grams,
            cost=cost,
            seconds_left=seconds,
            ends_at=(now + timedelta(seconds=seconds)).isoformat(timespec="seconds"),
        )


def _rates_by_epoch(epochs: Sequence[Spent], used: Sequence[float]) -> list[float]:
    """Return the value of the whole training by the rate of each epoch."""
    return [(used[i] - used[i - 1]) / (epochs[i].done - epochs[i - 1].done) for i in range(1, len(epochs))]


def _rate_per_kwh(before: Spent, spent: Spent, name: str) -> tuple[float, float | None]:
    """Return an amount so far, and its rate per kWh in the last epoch."""
    early, late = getattr(before, name), getattr(spent, name)
    if late is None or early is None or spent.kwh <= before.kwh:
        return late or 0.0, None
    return late, (late - early) / (spent.kwh - before.kwh)
