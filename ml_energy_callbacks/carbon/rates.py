"""Grams of CO2e and cost of energy, while the intensity and the price of electricity change."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from ml_energy_callbacks.carbon.account import Account, Interval
from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.price import PriceTable
from ml_energy_callbacks.carbon.provider import IntensityProvider, Quote
from ml_energy_callbacks.carbon.site import Site
from ml_energy_callbacks.metrics import all_named

MOST_INTERVALS = 1024
"""The record is rewritten often, and has to stay below a megabyte."""

NO_LOCATION = "No location set:"
"""How the warning of an assumed intensity begins; a run's headline says the same."""


class Amounts(NamedTuple):
    """Emissions and cost of the energy of each bucket.

    Attributes:
        grams: Emissions of each bucket in g CO2e; None while no intensity is known.
        cost: Cost of each bucket in the price's currency; None if no price is given.
    """

    grams: Sequence[float] | None
    cost: Sequence[float] | None


class Rates:
    """Emissions and cost: each joule counts at the intensity and the price that applied when it was used.

    Attributes:
        currency: Currency code.
        site: The data centre and the machine.
    """

    def __init__(self, provider: IntensityProvider, prices: PriceTable | None, currency: str, site: Site) -> None:
        """Start with no energy, at the present rates."""
        now = datetime.now(UTC)
        self.currency = currency
        self.site = site
        self._carbon = Account(provider.quote, now, site.pue)
        self._money = None if prices is None else Account(prices.at, now, site.pue)
        self._ended: list[Interval[Quote]] = []

    @property
    def intensity(self) -> CarbonIntensity:
        """The present intensity."""
        return self._carbon.rate.intensity

    @property
    def priced(self) -> bool:
        """Whether a price is known."""
        return self._money is not None

    @property
    def pending(self) -> bool:
        """Whether no intensity is known yet, so that no grams are either."""
        return self._carbon.rate.provisional

    @property
    def fallbacks(self) -> list[str]:
        """The fallback intensities that are used, and why, each reason once."""
        rates = [*(interval.rate for interval in self._ended), self._carbon.rate]
        used = [(rate.intensity.location or "the world", rate.fallback) for rate in rates if not rate.provisional]
        return list(
            dict.fromkeys(f"The fallback intensity of {place} is used: {why}" for place, why in used if why is not None)
        )

    @property
    def caveats(self) -> list[str]:
        """Sentences on the intensities that are used instead of one requested by the user."""
        if not self.intensity.assumed or self.pending:
            return self.fallbacks
        assumption = (
            f"{NO_LOCATION} using the world average of {self.intensity.g_per_kwh:.0f} g CO2e/kWh. "
            "Set location='FRA' (a country code, or 'US-VA' for a state) or carbon_intensity=<g per kWh>."
        )
        return [assumption, *self.fallbacks]

    def begin(self, joules: Sequence[float], now: datetime) -> None:
        """Start, or continue after a pause, with these joules in each bucket."""
        self._append_ended(self._carbon.begin(joules, now))
        if self._money is not None:
            self._money.begin(joules, now)

    def follow(self, joules: Sequence[float], now: datetime) -> None:
        """Record the joules of each bucket up to now, at the rates that applied since the last update."""
        self._append_ended(self._carbon.follow(joules, now))
        if self._money is not None:
            self._money.follow(joules, now)

    def conclude(self) -> None:
        """Accept the present intensity as final, even if it is provisional."""
        self._carbon.conclude()

    def amounts(self, joules: Sequence[float]) -> Amounts:
        """Return emissions and cost of these joules in each bucket, as of the last update."""
        return Amounts(
            None if self.pending else self._carbon.amounts(joules), None if self._money is None else self._money.amounts(joules)
        )

    def intervals(self, joules: Sequence[float]) -> list[Interval[Quote]]:
        """Return the intervals of constant intensity, oldest first; the last one has the remaining joules."""
        return [*self._ended, self._carbon.current_interval(joules)]

    def _append_ended(self, ended: Sequence[Interval[Quote]]) -> None:
        for interval in ended:
            self._ended = [*(self._ended if len(self._ended) < MOST_INTERVALS else _merge_pairs(self._ended)), interval]


def _merge_pairs(intervals: Sequence[Interval[Quote]]) -> list[Interval[Quote]]:
    """Merge each pair of neighbours, at the intensity that results in the same grams."""
    merged = []
    for first, second in zip(intervals[::2], intervals[1::2], strict=True):
        joules = first.joules + second.joules
        weight = first.joules / joules if joules > 0 else 0.5
        a, b = first.rate.intensity, second.rate.intensity
        mean = replace(
            b,
            g_per_kwh=a.g_per_kwh * weight + b.g_per_kwh * (1 - weight),
            source=all_named((a.source, b.source)) or "",
            assumed=a.assumed or b.assumed,
            relative_uncertainty=a.relative_uncertainty * weight + b.relative_uncertainty * (1 - weight),
        )
        rate = Quote(mean, second.rate.until, first.rate.fallback or second.rate.fallback)
        merged.append(Interval(first.began, second.ended, joules, rate))
    return merged
