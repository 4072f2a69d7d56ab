"""Learn when a counter refreshes: its period and offset, from polls that only bracket each refresh.

A counter's value is true at the instant at which it was refreshed, not when it was polled. This module computes with bounds,
not averages: if a poll shows a new value, a refresh lies between the previous poll and this one; if it shows the old value,
there is no refresh between them. Intersected with the refreshes that the period predicts, the bounds become much narrower than
the polling interval, and remain valid.
"""

from itertools import accumulate, pairwise
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ml_energy_callbacks.readings import Regularity

MILLISECOND = 1_000_000

_BURST_CHANGES = 4
_BURST_NS = 500 * MILLISECOND
_BURST_STEP_NS = MILLISECOND
_BURST_SHARE = 12
"""While the period is unknown, the time to the next poll is the time since the last refresh divided by this number."""
_SHORTEST_NS = 4 * MILLISECOND
"""Ordinary polls cannot follow a grid with a shorter period: the period is then only a bound on the age of a value."""
_MOST_DOUBTS = 20
"""Polls with a new value, as many as in a burst, after which the grid is given up if the number of periods is still unknown."""
_FEW_CHANGES, _MOST_CHANGES = 12, 64
"""Changes by which a grid is found from ordinary polls alone, without a burst: it is judged from so many on, and given up after
so many."""
_ONE_PERIOD = 1.5
"""Changes that are surely closer than this many times the shortest gap are one period apart."""
_NARROW = 0.05
"""A period that is known within this share of it is accepted then."""
_WIDE_NS = 2 * MILLISECOND
_STEADY_NS = 200_000
"""With less jitter than marks have, each refresh comes when it is expected, and polls between two of them say nothing more."""
_BLURRED_NS = 300_000
"""With wider bounds of the next refresh of a steady grid, a poll halves them."""
_PROBE_POLLS = 12
_MARGIN_NS = 300_000
"""How long before the next refresh the grid is checked: a thread wakes up some tenths of a millisecond late."""
_CHECK = 8
"""After so many refreshes, one is looked at from both sides: it must come neither before its bounds nor after them."""
_BOTH_SIDES = 16
"""Two polls less than the double of this share of a period apart look at a refresh from both sides."""
_DRIFT = 2e-6
"""The rates of two clocks vary relative to each other by about this share."""

_REANCHOR = 2000
"""Refreshes after which the period is measured from a new start, so that slow drift is followed."""
_FORGET = 0.999
"""Factor by which each refresh within its bounds reduces the jitter that is allowed for."""


class Refresh(NamedTuple):
    """An instant at which the counter's value was true.

    Attributes:
        time_ns: Best estimate, monotonic clock.
        half_width_ns: Bound on the error of ``time_ns``.
    """

    time_ns: int
    half_width_ns: int

    @property
    def sigma_ns(self) -> float:
        """Standard deviation of a uniform error of that half-width."""
        return self.half_width_ns / 3**0.5


class RefreshGrid:
    """The refresh instants of one counter.

    Attributes:
        regularity: ``unknown`` (still learning), ``continuous`` (each poll sees a new value), ``regular`` (a grid) or
            ``irregular`` (refreshes without a grid: only their brackets are known).
    """

    def __init__(self, known_period_ns: int | None = None, *, repeats: bool = False) -> None:
        """Start without polls.

        Args:
            known_period_ns: Bound on the age of a value if it is known for this kind of device (0: computed at each read);
                None if it has to be learned.
            repeats: Whether a refresh may show the same value again, as it may where a value is a power.
        """
        self._repeats = repeats
        self.regularity: Regularity = "unknown" if known_period_ns is None else "continuous"
        self._began: int | None = None
        self._burst = 0
        self._last_start = 0
        self._last_end = 0
        self._polls = 0
        self._brackets: list[tuple[int, int]] = []
        self._jitter = 0.0
        self._period = (0.0, float(known_period_ns or 0))
        self._anchor = (0.0, 0.0)
        self._steps = self._doubts = 0
        self._unchecked = 0
        self._refresh = (0.0, 0.0)

    @property
    def period_ns(self) -> float | None:
        """Learned period in ns; None unless the refreshes form a grid."""
        return sum(self._period) / 2 if self.regularity == "regular" else None

    @property
    def longest_ns(self) -> float:
        """Longest time from one refresh to the next that is known of, in ns; 0 while there is none."""
        return self._period[1]

    @property
    def jitter_ns(self) -> float | None:
        """Observed deviation of refreshes from the grid, in ns; None unless they form a grid."""
        return self._jitter if self.regularity == "regular" else None

    def observe(self, start: int, end: int, *, changed: bool) -> Refresh | None:
        """Add a poll that ran from ``start`` to ``end`` (ns) and did or did not show a new value.

        Returns:
            The refresh of the value that was read; None if it is unknown (the value is old or the first one, or it is
            uncertain to which refresh it belongs).
        """
        first = self._began is None
        previous_start, previous_end = self._last_start, self._last_end
        self._last_start, self._last_end = start, end
        if first:
            self._began = self._burst = start
            return None
        self._polls += 1
        if self.regularity == "unknown":
            if changed:
                if self._repeats and not self._brackets:
                    self._burst = start  # before the first change there was nothing to learn from
                self._brackets.append((previous_start, end))
                self._judge()
            return _between(previous_start, end) if changed else None
        if self.regularity == "continuous":
            return _between(start - int(self._period[1]), end) if changed else None
        if self.regularity == "irregular":
            return self._bracket(previous_start, start, end, changed=changed)
        return self._track(previous_start, previous_end, start, end, changed=changed)

    def _bracket(self, previous_start: int, start: int, end: int, *, changed: bool) -> Refresh | None:
        """Return the bounds of the last refresh without a grid: polls may be further apart than refreshes ever were."""
        longest = self._period[1]
        if changed:
            self._refresh = (max(previous_start, end - longest), end)
            return _between(int(self._refresh[0]), end)
        if not self._repeats:
            self._period = (0.0, max(longest, start - self._refresh[1]))
        return None

    def _give_up(self, longest: float) -> None:
        """Go on without a grid; no more than so many ns (``longest``) were seen to pass from one refresh to the next."""
        self.regularity = "irregular"
        self._period = (0.0, max(longest, min((high - low for low, high in self._brackets), default=0)))
        self._refresh = (float(self._last_end), float(self._last_end))

    def learning(self, now: int) -> bool:
        """Return whether, at an instant (ns), a grid may still be found by the first polls."""
        return self.regularity == "unknown" and (self._began is None or now - self._began < _BURST_NS)

    def next_poll(self, now: int) -> int | None:
        """Return the time of the most informative next poll (ns), or None if the ordinary polls are sufficient."""
        if self._began is None:
            return now
        if self.regularity == "unknown":
            if now - self._burst >= _BURST_NS:
                return None
            last = self._brackets[-1][1] if self._brackets else self._began
            return now + max(_BURST_STEP_NS, (now - last) // _BURST_SHARE)
        return self._next_probe(now) if self.regularity == "regular" else None

    def _next_probe(self, now: int) -> int | None:
        """Return when a poll narrows the bounds of the next refresh, or checks that none comes before it; None for neither."""
        low, high = self._predict_after(now)
        width = high - low
        if width > (sum(self._period) / 16 if self._is_steady else _WIDE_NS + 2 * self._jitter):
            step = max(_BURST_STEP_NS, int(width / _PROBE_POLLS))
            return max(now, int(low) - 2 * step) + step
        wish = now
        if self._is_steady and self._unchecked >= _CHECK:
            wish = int(low) - _MARGIN_NS
        elif self._is_steady and width > _BLURRED_NS + 2 * self._jitter:
            wish = int(low + high) // 2
        return wish if wish > now else None

    @property
    def _is_steady(self) -> bool:
        return self._jitter <= _STEADY_NS

    def span(self, now: int, wish: int) -> tuple[int, int] | None:
        """Return between which times (ns) a poll shows one refresh: the next, or one near the wish; None without a steady grid.

        Any poll up to the next refresh shows it, and the grid says when it was. Polls later than half a period after it, which
        may be too late on a busy machine, are left out.
        """
        if self.regularity != "regular" or not self._is_steady:
            return None
        period = sum(self._period) / 2
        low, high = self._predict_after(now)
        if high - low > period / 4:
            return None
        if self._unchecked >= _CHECK:
            return int(high) + 1, int(high) + 1
        skipped = max(0, round((wish - high) / period)) if period < wish - now else 0
        if skipped:  # the longer until then, the less is known of when it comes
            _, high = self._predict_after(now + round(skipped * period))
        return int(high) + 1, int(high + period / 2)

    def _judge(self) -> None:
        """Classify the counter by its first refreshes."""
        brackets = self._brackets
        if len(brackets) < _BURST_CHANGES:
            return
        if self._polls > len(brackets) and self._coarse():
            self._judge_coarse()
            return
        if len(brackets) * 2 > self._polls:
            width = max(1, min(high - low for low, high in brackets))
            self._period = (0.0, float(width))
            self.regularity = "continuous"
            return
        middles = [(low + high) / 2 for low, high in brackets]
        typical = self._typical_gap()
        if typical < _SHORTEST_NS:
            self._period = (0.0, float(max(high - low for (low, _), (_, high) in pairwise(brackets))))
            self.regularity = "continuous"
            return
        narrowest = min(range(len(brackets)), key=lambda i: brackets[i][1] - brackets[i][0])
        counts = [round((middle - middles[narrowest]) / typical) for middle in middles]
        steps = [count - counts[0] for count in counts]
        (first_low, first_high), (last_low, last_high) = brackets[0], brackets[-1]
        self._period = ((last_low - first_high) / steps[-1], (last_high - first_low) / steps[-1])
        for i, (low, high) in enumerate(brackets):
            for j in range(i):
                count = steps[i] - steps[j]
                if count > 0:
                    bounds = ((low - brackets[j][1]) / count, (high - brackets[j][0]) / count)
                    self._period = (max(self._period[0], bounds[0]), min(self._period[1], bounds[1]))
        if self._period[0] > self._period[1]:
            # No period fits all: the refreshes jitter by more than the polls' spacing.
            excess = self._period[0] - self._period[1]
            self._period = (self._period[1], self._period[0])
            self._jitter = excess
            if excess > typical / 4:
                self._give_up(self._still())
                return
        self.regularity = "regular"
        self._refresh = self._anchor = (float(last_low), float(last_high))
        self._steps = 0

    @property
    def _gaps(self) -> list[tuple[int, int]]:
        """Bounds of the time from each change to the next one, in ns."""
        return [(later[0] - earlier[1], later[1] - earlier[0]) for earlier, later in pairwise(self._brackets)]

    def _typical_gap(self) -> float:
        """Return the time between two changes that are one period apart, in ns, as far as their brackets tell."""
        gaps = self._gaps
        if not self._repeats:
            return sorted(map(sum, gaps))[len(gaps) // 2] / 2
        # Two changes may be several periods apart. Of those that are one apart, the best known ones tell.
        most = _ONE_PERIOD * min(longest for _, longest in gaps)
        shortest, longest = min((gap for gap in gaps if gap[1] <= most), key=lambda gap: gap[1] - gap[0])
        return (shortest + longest) / 2

    def _coarse(self) -> bool:
        """Return whether the polls were too far apart to count the periods between changes by their times alone."""
        gaps = sorted(later[1] - earlier[1] for earlier, later in pairwise(self._brackets))
        typical = gaps[len(gaps) // 2]
        return typical > 2 * _SHORTEST_NS and sorted(high - low for low, high in self._brackets)[1] > typical / 8

    def _judge_coarse(self) -> None:
        """Find the period by bounds alone: what lies between two changes holds no refresh, and two neighbours are one apart."""
        brackets = self._brackets
        if len(brackets) < _FEW_CHANGES:
            return
        most = min(longest for _, longest in self._gaps)
        least = self._still()
        low, high = float(least), float(most)
        # Of how many brackets, up to each, it is uncertain whether they hold one refresh or two.
        doubtful = [0, *accumulate(end - start > least for start, end in brackets)]
        for distance in range(1, len(brackets)):
            for i, ((from_low, from_high), (to_low, to_high)) in enumerate(zip(brackets, brackets[distance:], strict=False)):
                if not 0 < low <= high:
                    break
                fewest, count = ceil((to_low - from_high) / high), int((to_high - from_low) / low)
                if doubtful[i] == doubtful[i + distance + 1] and not self._repeats:
                    fewest = count = distance
                if fewest == count > 0:
                    low, high = max(low, (to_low - from_high) / count), min(high, (to_high - from_low) / count)
        if not 0 < low <= high or (high - low > _NARROW * low and len(brackets) >= _MOST_CHANGES):
            self._give_up(least)
        elif high - low <= _NARROW * low:
            self._period = (low, high)
            self.regularity = "regular"
            self._refresh = self._anchor = self._place_last()
            self._steps = 0

    def _still(self) -> int:
        """Return the longest time between two changes that holds no refresh."""
        gaps = self._gaps
        most = min(longest for _, longest in gaps)
        # Where a refresh may show the same again, what is longer than the shortest holds such refreshes.
        return max(shortest for shortest, _ in gaps if shortest < most or not self._repeats)

    def _place_last(self) -> tuple[float, float]:
        """Return the bounds of the last refresh, by all brackets that are a known number of periods before it."""
        last_low, last_high = self._brackets[-1]
        low, high = float(last_low), float(last_high)
        for before_low, before_high in reversed(self._brackets[:-1]):
            fewest = ceil((last_low - before_high) / self._period[1])
            count = int((last_high - before_low) / self._period[0])
            if fewest == count:
                low = max(low, before_low + count * self._period[0])
                high = min(high, before_high + count * self._period[1])
        return (low, high) if low <= high else (float(last_low), float(last_high))

    def _ahead(self, count: int) -> tuple[float, float]:
        """Return the bounds of the refresh ``count`` periods after the last known one."""
        low, high = self._refresh
        spare = self._jitter if count else 0.0
        return low + count * self._period[0] - spare, high + count * self._period[1] + spare

    def _count_until(self, instant: float) -> int:
        """Return the number of periods from the last known refresh to the last one that may lie at or before the instant."""
        return max(0, int((instant - self._refresh[0] + self._jitter) / self._period[0]))

    def _predict_after(self, now: int) -> tuple[float, float]:
        middle = sum(self._refresh) / 2
        count = max(1, int((now - middle) / (sum(self._period) / 2)) + 1)
        before = self._ahead(count - 1)
        # The refresh that is just due is returned until its upper bound has passed.
        return before if count > 1 and before[1] > now else self._ahead(count)

    def _track(self, previous_start: int, previous_end: int, start: int, end: int, *, changed: bool) -> Refresh | None:
        latest = self._count_until(end)
        if latest and self._ahead(latest)[1] - self._ahead(latest)[0] > sum(self._period) / 4:
            if changed:
                return self._find_again(previous_start, end)
            return None if self._repeats or start - previous_end <= self._period[1] + self._jitter else self._miss(start, start)
        if not changed:
            self._no_refresh(latest, previous_end, start)
            return None
        candidates = [
            count for count in range(max(0, latest - 1), latest + 1) if count > 0 and self._ahead(count)[1] > previous_start
        ]
        if not candidates:
            return self._miss(previous_start, end)
        low, high = self._ahead(candidates[-1])
        if len(candidates) > 1 and high > start:
            return None  # the value may be of this refresh or of the one before
        if end - previous_start < sum(self._period) / _BOTH_SIDES:
            self._unchecked = -1
        self._accept(candidates[-1], max(low, previous_start) if len(candidates) == 1 else low, min(high, end))
        return Refresh(int(sum(self._refresh) / 2), int((self._refresh[1] - self._refresh[0]) / 2))

    def _find_again(self, low: int, high: int) -> Refresh:
        """Restart the grid at a narrow bracket, with the same period, after a gap that left the number of periods unknown.

        Between longer brackets the number stays unknown: the last refresh in one is less than a period before its end.
        """
        low = max(low, high - int(self._period[1] + self._jitter))
        if high - low < self._period[0] / 2:
            self._refresh = self._anchor = (float(low), float(high))
            self._steps = self._doubts = 0
            return _between(low, high)
        self._doubts += 1
        if self._doubts > _MOST_DOUBTS:  # no bracket was narrow enough
            self._give_up(self._period[1] + self._jitter)
        return _between(low, high)

    def _no_refresh(self, latest: int, previous_end: int, start: int) -> None:
        """Use an old value as a bound: the refresh that was due did not happen before ``start``, unless it shows the same."""
        if latest == 0 or self._repeats:
            return
        low, high = self._ahead(latest)
        if high < start and low > previous_end:
            self._miss(start, start)
        elif latest == 1 and low < start <= high:
            bound = start - self._period[1] - self._jitter
            self._refresh = (min(max(self._refresh[0], bound), self._refresh[1]), self._refresh[1])

    def _accept(self, count: int, low: float, high: float) -> None:
        """Advance to the refresh ``count`` periods later, which is now known to lie between ``low`` and ``high``."""
        if low > high:
            self._jitter += (low - high) / 2
            low, high = high, low
        self._steps += count
        self._unchecked += 1
        self._refresh = (low, high)
        slack = 2 * self._jitter
        bounds = (
            (low - self._anchor[1] - slack) / self._steps,
            (high - self._anchor[0] + slack) / self._steps,
        )
        period = (max(self._period[0], bounds[0]), min(self._period[1], bounds[1]))
        middle = sum(period) / 2
        if period[0] > period[1]:
            self._jitter += (period[0] - period[1]) / 2
            period = (period[1], period[0])
        self._period = (min(period[0], middle * (1 - _DRIFT)), max(period[1], middle * (1 + _DRIFT)))
        self._jitter *= _FORGET
        if self._steps > _REANCHOR:
            self._anchor, self._steps = self._refresh, 0

    def _miss(self, low: int, high: int) -> Refresh | None:
        """Increase the jitter, because the grid does not explain a poll; with too much jitter, give the grid up."""
        self._jitter = max(2 * self._jitter, 0.25 * MILLISECOND)
        if self._jitter > self._period[0] / 4:
            self._give_up(self._period[1] + 2 * self._jitter)
        return _between(low, high) if high > low else None


def _between(low: int, high: int) -> Refresh:
    return Refresh((low + high) // 2, (high - low + 1) // 2)
