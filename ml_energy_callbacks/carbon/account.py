"""Amounts (grams or money) of energy while the rate per kilowatt-hour changes; pure."""

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from ml_energy_callbacks.metrics import JOULES_PER_KWH, OUTSIDE


class Rate(Protocol):
    """The amount per kilowatt-hour, valid for some time."""

    @property
    def per_kwh(self) -> float:
        """Amount per kWh."""

    @property
    def until(self) -> datetime | None:
        """End of its validity; None if unknown."""

    @property
    def provisional(self) -> bool:
        """Whether the rate is not known yet; the next one then also applies to this time."""

    def alike(self, other: Self) -> bool:
        """Return whether another rate is equal, apart from the time of its validity."""

    def settled(self) -> Self:
        """Return the rate as final, so that no later one replaces it."""


_Rate = TypeVar("_Rate", bound=Rate)

_MOST_CHANGES = 10_000
"""Largest number of rate changes in one update; the next update continues from there."""


class Interval(NamedTuple, Generic[_Rate]):
    """A time in which one rate applied.

    Attributes:
        began: Its start.
        ended: Its end, or the last update.
        joules: Energy of the run in this time in J.
        rate: The rate.
    """

    began: datetime
    ended: datetime
    joules: float
    rate: _Rate


class _Settled(NamedTuple, Generic[_Rate]):
    """Energy and amounts before the present rate, by bucket; immutable, because two threads use it."""

    joules: Sequence[float]
    amounts: Sequence[float]
    rate: _Rate


class Account(Generic[_Rate]):
    """Amounts by bucket: each joule counts at the rate that applied when it was used.

    The amounts of a rate are final as soon as the next rate applies.
    """

    def __init__(self, rate_at: Callable[[datetime], _Rate], now: datetime, factor: float = 1.0) -> None:
        """Start with no energy at the present rate; each amount is multiplied by the factor."""
        self._rate_at = rate_at
        self._per_joule = factor / JOULES_PER_KWH
        self._began = self._updated_at = now
        self._joules: Sequence[float] = ()
        self._state = _Settled((), (), rate_at(now))

    @property
    def rate(self) -> _Rate:
        """The present rate."""
        return self._state.rate

    def begin(self, joules: Sequence[float], now: datetime) -> list[Interval[_Rate]]:
        """Start with these joules in each bucket, or continue after a pause; return the interval that this ends."""
        rate = self._rate_at(now)
        ended = [self._end_interval(joules, self._updated_at, rate)] if _run_joules(joules) > 0 else []
        self._state = self._state._replace(rate=rate)
        self._began, self._updated_at, self._joules = now, now, joules
        return ended

    def follow(self, joules: Sequence[float], now: datetime) -> list[Interval[_Rate]]:
        """Record the joules of each bucket up to now, and return the intervals that ended since the last update.

        Between two updates, power is assumed to be constant.
        """
        if self._state.rate.provisional:
            self._state = self._state._replace(rate=self._rate_at(now))
        ended = []
        for _ in range(_MOST_CHANGES):
            rate = self._state.rate
            if rate.provisional or rate.until is None or rate.until > now:
                self._updated_at, self._joules = max(now, self._updated_at), joules
                break
            change = max(rate.until, self._updated_at)
            following = self._rate_at(change)
            share = (change - self._updated_at) / (now - self._updated_at) if now > self._updated_at else 1.0
            self._joules = [a + (b - a) * share for a, b in zip_longest(self._joules, joules, fillvalue=0.0)]
            self._updated_at = change
            if following.alike(rate):
                self._state = self._state._replace(rate=following)
            else:
                ended.append(self._end_interval(self._joules, change, following))
                self._began = change
        return ended

    def conclude(self) -> None:
        """Accept a provisional rate as final, because no later one is expected."""
        self._state = self._state._replace(rate=self._state.rate.settled())

    def amounts(self, joules: Sequence[float]) -> list[float]:
        """Return the amounts of these joules in each bucket, as of the last update."""
        state = self._state
        per_joule = state.rate.per_kwh * self._per_joule
        parts = zip_longest(joules, state.joules, state.amounts, fillvalue=0.0)
        return [amount + (now - then) * per_joule for now, then, amount in parts]

    def current_interval(self, joules: Sequence[float]) -> Interval[_Rate]:
        """Return the interval that has not ended, with the remaining joules."""
        state = self._state
        return Interval(self._began, self._updated_at, _run_joules(joules) - _run_joules(state.joules), state.rate)

    def _end_interval(self, joules: Sequence[float], ended: datetime, following: _Rate) -> Interval[_Rate]:
        """End the present interval with these joules in each bucket, and start that of the following rate."""
        interval = self.current_interval(joules)._replace(ended=ended)
        self._state = _Settled(joules, self.amounts(joules), following)
        return interval


def _run_joules(joules: Sequence[float]) -> float:
    """Return the energy of the run, which excludes bucket 0."""
    return sum(joules) - joules[OUTSIDE] if joules else 0.0
