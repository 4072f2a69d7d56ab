"""What joules amount to while the rate per kilowatt-hour changes; pure."""

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from ml_energy_callbacks.metrics import JOULES_PER_KWH, OUTSIDE


class Rate(Protocol):
    """What a kilowatt-hour amounts to for a while."""

    @property
    def per_kwh(self) -> float:
        """Amount for each kWh."""

    @property
    def until(self) -> datetime | None:
        """It holds until then; None where no end is in sight."""

    @property
    def provisional(self) -> bool:
        """Whether nothing is known yet: what comes then counts for this time, too."""

    def alike(self, other: Self) -> bool:
        """Return whether another one is the same but for the time that it holds."""

    def settled(self) -> Self:
        """Return it as one that nothing better comes for."""


_Rate = TypeVar("_Rate", bound=Rate)

_MOST_CHANGES = 10_000
"""So many changes are followed in one look; the next look goes on from there."""


class Interval(NamedTuple, Generic[_Rate]):
    """A time in which one rate held.

    Attributes:
        began: When it began.
        ended: When it ended, or was last looked at.
        joules: Energy of the run in it, in J.
        rate: The rate.
    """

    began: datetime
    ended: datetime
    joules: float
    rate: _Rate


class _Settled(NamedTuple, Generic[_Rate]):
    """What passed before the rate that holds now, by bucket; never changed once made, as two threads use it."""

    joules: Sequence[float]
    amounts: Sequence[float]
    rate: _Rate


class Account(Generic[_Rate]):
    """Amounts by bucket: each joule counts with the rate at which it passed.

    What a rate's time amounts to is settled when the next begins.
    """

    def __init__(self, rate_at: Callable[[datetime], _Rate], now: datetime, factor: float = 1.0) -> None:
        """Begin without a joule at the rate of now; every amount is multiplied by the factor."""
        self._rate_at = rate_at
        self._per_joule = factor / JOULES_PER_KWH
        self._began = self._seen_at = now
        self._seen: Sequence[float] = ()
        self._state = _Settled((), (), rate_at(now))

    @property
    def rate(self) -> _Rate:
        """The rate that holds now."""
        return self._state.rate

    def begin(self, joules: Sequence[float], now: datetime) -> list[Interval[_Rate]]:
        """Begin with so many joules in each bucket, or go on after a pause; return the interval that this ends."""
        rate = self._rate_at(now)
        ended = [self._settle(joules, self._seen_at, rate)] if _inside(joules) > 0 else []
        self._state = self._state._replace(rate=rate)
        self._began, self._seen_at, self._seen = now, now, joules
        return ended

    def follow(self, joules: Sequence[float], now: datetime) -> list[Interval[_Rate]]:
        """Note the joules of each bucket up to now, and return the intervals that ended since the last look.

        Between two looks the energy is taken to have passed evenly.
        """
        if self._state.rate.provisional:
            self._state = self._state._replace(rate=self._rate_at(now))
        ended = []
        for _ in range(_MOST_CHANGES):
            rate = self._state.rate
            if rate.provisional or rate.until is None or rate.until > now:
                self._seen_at, self._seen = max(now, self._seen_at), joules
                break
            change = max(rate.until, self._seen_at)
            following = self._rate_at(change)
            share = (change - self._seen_at) / (now - self._seen_at) if now > self._seen_at else 1.0
            self._seen = [a + (b - a) * share for a, b in zip_longest(self._seen, joules, fillvalue=0.0)]
            self._seen_at = change
            if following.alike(rate):
                self._state = self._state._replace(rate=following)
            else:
                ended.append(self._settle(self._seen, change, following))
                self._began = change
        return ended

    def conclude(self) -> None:
        """Take a rate that was to stand in for a while for good: nobody waits for the right one any more."""
        self._state = self._state._replace(rate=self._state.rate.settled())

    def amounts(self, joules: Sequence[float]) -> list[float]:
        """Return what so many joules in each bucket amount to, as of the last look."""
        state = self._state
        per_joule = state.rate.per_kwh * self._per_joule
        parts = zip_longest(joules, state.joules, state.amounts, fillvalue=0.0)
        return [amount + (now - then) * per_joule for now, then, amount in parts]

    def last(self, joules: Sequence[float]) -> Interval[_Rate]:
        """Return the interval that has not ended, with what is left of the joules."""
        state = self._state
        return Interval(self._began, self._seen_at, _inside(joules) - _inside(state.joules), state.rate)

    def _settle(self, joules: Sequence[float], ended: datetime, following: _Rate) -> Interval[_Rate]:
        """End the rate's time with so many joules in each bucket, and begin that of the one that follows."""
        interval = self.last(joules)._replace(ended=ended)
        self._state = _Settled(joules, self.amounts(joules), following)
        return interval


def _inside(joules: Sequence[float]) -> float:
    """Return the energy of the run: that of bucket 0 is outside."""
    return sum(joules) - joules[OUTSIDE] if joules else 0.0
