"""Grams and money of joules, while the electricity's intensity and its price change."""

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
"""The record is rewritten all the time, and stays below a megabyte."""


class Amounts(NamedTuple):
    """What the energy of each bucket amounts to.

    Attributes:
        grams: Emissions of each bucket in g CO2e; None while no intensity is known.
        cost: Cost of each bucket in the price's currency, or None.
    """

    grams: Sequence[float] | None
    cost: Sequence[float] | None


class Rates:
    """Grams and money: each joule counts with the intensity and the price at which it passed.

    Attributes:
        currency: Currency code.
        site: The data centre and the machine.
    """

    def __init__(self, provider: IntensityProvider, prices: PriceTable | None, currency: str, site: Site) -> None:
        """Begin without a joule, at the rates of now."""
        now = datetime.now(UTC)
        self.currency = currency
        self.site = site
        self._carbon = Account(provider.quote, now, site.pue)
        self._money = None if prices is None else Account(prices.at, now, site.pue)
        self._ended: list[Interval[Quote]] = []

    @property
    def intensity(self) -> CarbonIntensity:
        """The intensity that holds now."""
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
        """Whose intensity stands in for another one, and why, each reason once."""
        rates = [*(interval.rate for interval in self._ended), self._carbon.rate]
        told = [(rate.intensity.location or "the world", rate.fallback) for rate in rates if not rate.provisional]
        return list(dict.fromkeys(f"The usual intensity of {place} is taken: {why}" for place, why in told if why is not None))

    @property
    def caveats(self) -> list[str]:
        """What the grams are by where that is not what was asked for."""
        if not self.intensity.assumed or self.pending:
            return self.fallbacks
        assumption = (
            f"Nobody named a place: the world's average of {self.intensity.g_per_kwh:.0f} g CO2e/kWh is assumed. "
            "Set location='FRA' (a country code, or 'US-VA' for a state) or carbon_intensity=<g per kWh>."
        )
        return [assumption, *self.fallbacks]

    def begin(self, joules: Sequence[float], now: datetime) -> None:
        """Begin, or go on after a pause, with so many joules in each bucket."""
        self._keep(self._carbon.begin(joules, now))
        if self._money is not None:
            self._money.begin(joules, now)

    def follow(self, joules: Sequence[float], now: datetime) -> None:
        """Note the joules of each bucket up to now, and the rates that began since the last look."""
        self._keep(self._carbon.follow(joules, now))
        if self._money is not None:
            self._money.follow(joules, now)

    def conclude(self) -> None:
        """Wait no longer for an intensity that is not known yet."""
        self._carbon.conclude()

    def amounts(self, joules: Sequence[float]) -> Amounts:
        """Return what so many joules in each bucket amount to, as of the last look."""
        return Amounts(
            None if self.pending else self._carbon.amounts(joules), None if self._money is None else self._money.amounts(joules)
        )

    def intervals(self, joules: Sequence[float]) -> list[Interval[Quote]]:
        """Return the times in which one intensity held, oldest first, the last with what is left of the joules."""
        return [*self._ended, self._carbon.last(joules)]

    def _keep(self, ended: Sequence[Interval[Quote]]) -> None:
        for interval in ended:
            self._ended = [*(self._ended if len(self._ended) < MOST_INTERVALS else _merged(self._ended)), interval]


def _merged(intervals: Sequence[Interval[Quote]]) -> list[Interval[Quote]]:
    """Tell each two neighbours as one, with the intensity that gives the same grams."""
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
