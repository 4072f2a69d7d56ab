"""Which bucket of time is running, and how long each has run so far.

A bucket is one phase of one stage, by its index; bucket 0 is the time outside the run. One thread at a time writes
(the training loop, in :meth:`Timeline.switch`); any thread may look. Nothing locks, and memory is constant.
"""

from array import array
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from time import sleep

from ml_energy_callbacks.clock import Clock

OUTSIDE = 0
"""Index of the bucket that holds the time outside the run."""

_CAPACITY = 1024
"""Switches that are remembered one by one; further back, time is interpolated between two looks."""

_PATIENCE = 1000
"""Looks into a switch that is not finished before the view is taken as it is."""

_LOOKS = 32
"""Earlier looks that are remembered."""


class Timeline:
    """Keep exact totals of the time in each bucket, and the recent switches one by one.

    Attributes:
        groups: Group of each bucket.
    """

    def __init__(self, clock: Clock) -> None:
        """Start in bucket 0, with no other."""
        self.clock = clock
        self._times = array("q", bytes(8 * _CAPACITY))
        self._buckets = array("h", bytes(2 * _CAPACITY))
        self._totals = [0]
        self.groups = [0]
        self._running = OUTSIDE
        self._since = self._times[0] = clock()
        # A look is whole when both counts agree: the first moves before a change, the second after it.
        self._begun = self._done = 1

    def add_bucket(self, group: int = 0) -> int:
        """Add a bucket to a group of buckets that belong together, and return its index."""
        self.groups.append(group)
        self._totals = [*self._totals, 0]
        return len(self._totals) - 1

    @property
    def running(self) -> int:
        """Index of the running bucket."""
        return self._running

    def switch(self, bucket: int) -> int:
        """End the running bucket, begin this one, and return the clock in ns."""
        now = self.clock()
        count = self._done
        self._begun = count + 1
        self._totals[self._running] += now - self._since
        self._running = bucket
        self._since = now
        slot = count % _CAPACITY
        self._times[slot] = now
        self._buckets[slot] = bucket
        self._done = count + 1
        return now

    def look(self) -> "Look":
        """Return the state as of now."""
        for _ in range(_PATIENCE):
            now = self.clock()
            count = self._done
            totals, times, buckets = self._totals[:], self._times[:], self._buckets[:]
            if self._begun == count:
                break
            sleep(0)  # the writer was interrupted in the middle of a switch: let it finish
        # It may be waiting for us, where a signal's handler looks: the view is then off by that one switch.
        return Look(now, count, totals, times, buckets)


@dataclass(frozen=True, slots=True)
class Look:
    """A whole view of a timeline at one instant.

    Attributes:
        now: Clock in ns.
        count: Switches so far, the start among them.
        ended: Time in each bucket in ns, up to the last switch.
        times: Ring of the clock at each switch.
        buckets: Ring of the bucket that each switch began.
    """

    now: int
    count: int
    ended: list[int]
    times: "array[int]"
    buckets: "array[int]"

    @property
    def totals(self) -> list[int]:
        """Time in each bucket up to now, in ns."""
        slot = (self.count - 1) % _CAPACITY
        totals = self.ended[:]
        totals[self.buckets[slot]] += max(0, self.now - self.times[slot])
        return totals

    def rewind(self, instant: int) -> tuple[int, list[int], int]:
        """Go back towards an instant as far as single switches are remembered.

        Returns:
            The instant reached (later than the one asked for where memory ends), the totals in ns there, and the bucket
            that was running there. Time before the first switch counts as bucket 0, below zero.
        """
        totals = self.ended[:]
        index = self.count - 1
        slot = index % _CAPACITY
        reached, bucket = self.times[slot], self.buckets[slot]
        totals[bucket] += instant - reached if instant > reached else 0
        if instant >= reached:
            return instant, totals, bucket
        oldest = max(0, self.count - _CAPACITY)
        while index > oldest:
            index -= 1
            slot = index % _CAPACITY
            began, bucket = self.times[slot], self.buckets[slot]
            if began <= instant:
                totals[bucket] -= reached - instant
                return instant, totals, bucket
            totals[bucket] -= reached - began
            reached = began
        if oldest == 0:
            totals[OUTSIDE] -= reached - instant
            return instant, totals, OUTSIDE
        return reached, totals, bucket


class TimelineReader:
    """Answer for instants of the near past how long each bucket had run by then."""

    def __init__(self, timeline: Timeline) -> None:
        """Read this timeline; one reader serves one thread."""
        self._timeline = timeline
        self._look = timeline.look()
        self._anchors: deque[tuple[int, list[int]]] = deque([(self._look.now, self._look.totals)], maxlen=_LOOKS)

    def group(self, bucket: int) -> int:
        """Return the group of a bucket."""
        return self._timeline.groups[bucket]

    def refresh(self) -> int:
        """Look again, and return the clock in ns."""
        self._look = self._timeline.look()
        self._anchors.append((self._look.now, self._look.totals))
        return self._look.now

    @property
    def totals(self) -> list[int]:
        """Time in each bucket at the last look, in ns."""
        return self._anchors[-1][1]

    def at(self, instant: int) -> tuple[list[float], int]:
        """Return the time in each bucket (ns) at an instant (ns), and the bucket that was running then.

        Exact for the last 1,024 switches; before them it is interpolated between two looks, which is as good there,
        since so many switches between two looks are a fine mixture.
        """
        reached, totals, bucket = self._look.rewind(instant)
        if reached == instant:
            return [float(total) for total in totals], bucket
        place = bisect_right(self._anchors, instant, key=lambda anchor: anchor[0])
        before, early = self._anchors[max(0, place - 1)]
        if place < len(self._anchors) and self._anchors[place][0] < reached:
            reached, totals = self._anchors[place]
        early = early + [0] * (len(totals) - len(early))
        totals = totals + [0] * (len(early) - len(totals))
        share = (instant - before) / (reached - before) if reached > before else 1.0
        return [a + (b - a) * share for a, b in zip(early, totals, strict=True)], bucket
