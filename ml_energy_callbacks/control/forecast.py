"""What a training will take, from its epochs so far; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import hypot
from statistics import fmean

from ml_energy_callbacks.attribution.student_t import quantile
from ml_energy_callbacks.record.schema import ForecastRecord

_FIRST_SPREAD, _FIRST_WEIGHT = 0.1, 4
"""Before an epoch was compared with another, they are taken to differ by 10 %, which counts like four comparisons; assumed."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used up to an instant.

    Attributes:
        done: Share of the training that has passed, 0 to 1.
        kwh: Energy in kWh.
        seconds: Time in s.
        apart_kwh: Part of the energy that does not come again with each epoch: compiling, and validations that are not part of
            every epoch.
        apart_seconds: The same of the time.
        validations: How many validations that are not part of every epoch had passed, whoever measured them.
        validation_kwh: What those took that were measured.
        validation_seconds: The same in s.
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
    """Expects of the epochs to come what those so far took on average."""

    def __init__(self, start: Spent) -> None:
        """Begin where the first epoch begins."""
        self._epochs = [start]

    def expect(self, spent: Spent, now: datetime, validations: int = 0) -> ForecastRecord | None:
        """Take what was used up to the end of an epoch, and return what is expected of the whole.

        The interval is that of the sum of the epochs to come, normally distributed about a mean that is not known, with a
        scaled inverse chi-squared prior of their variance (Gelman et al., Bayesian Data Analysis, 3rd ed., 3.3 and 3.9).

        Args:
            spent: What was used.
            now: The time on the wall.
            validations: So many validations that are not part of every epoch are to come.

        Returns:
            None where nothing can be expected: no time passed, or no validation was seen of those to come.
        """
        before = self._epochs[-1]
        if spent.done <= before.done:
            return None
        self._epochs.append(spent)
        start = self._epochs[0]  # validations before it may have been of another training, or in another process
        validated = spent.validations - start.validations
        if validations and not validated:
            return None
        kwh_rates = _rates(self._epochs, [each.kwh - each.apart_kwh for each in self._epochs])
        second_rates = _rates(self._epochs, [each.seconds - each.apart_seconds for each in self._epochs])
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
        per_kwh = [_per_kwh(before, spent, name) for name in ("co2e_grams", "cost")]
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


def _rates(epochs: Sequence[Spent], used: Sequence[float]) -> list[float]:
    """Return what the whole training would take by each epoch."""
    return [(used[i] - used[i - 1]) / (epochs[i].done - epochs[i - 1].done) for i in range(1, len(epochs))]


def _per_kwh(before: Spent, spent: Spent, name: str) -> tuple[float, float | None]:
    """Return an amount so far, and what a kWh of the last epoch came to."""
    early, late = getattr(before, name), getattr(spent, name)
    if late is None or early is None or spent.kwh <= before.kwh:
        return late or 0.0, None
    return late, (late - early) / (spent.kwh - before.kwh)
