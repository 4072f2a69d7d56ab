"""Record which bucket of time is running, how long each has run so far, and how many batches were processed.

A bucket is one phase of one stage, by its index; bucket 0 is the time outside the run. The training loop only appends events to
a queue, which takes well under a microsecond and never waits; readers drain the queue.
"""

import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import itemgetter
from typing import Literal

from ml_energy_callbacks.attribution.quantiles import Quantiles
from ml_energy_callbacks.clock import Clock
from ml_energy_callbacks.metrics import MOST_COUNT, OUTSIDE

_REMEMBERED = 1024
"""Number of switches that are stored individually; before them, time is interpolated between two looks."""

_clock_of = itemgetter(0)

_HISTORY = 2048
"""Number of switches that a reader remembers at least, once there were so many: a minute and a half at ten batches a second."""

_LOOKS = 32
"""Number of earlier looks that are stored."""

LONGEST_QUEUE = 4000
"""A longer queue is drained by the training loop itself, so that memory is bounded."""


@dataclass(slots=True)
class Counts:
    """Batches, samples and tokens that were processed in a group of buckets.

    Attributes:
        batches: Batches that ended.
        samples: Samples in those of known size.
        unsized: Batches whose size is unknown.
        compiled: Samples of batches that ended in a bucket for compiling.
        counted: Batches whose tokens were counted.
        tokens: Tokens in those.
        compiled_tokens: Tokens of batches that ended in a bucket for compiling.
    """

    batches: int = 0
    samples: int = 0
    unsized: int = 0
    compiled: int = 0
    counted: int = 0
    tokens: int = 0
    compiled_tokens: int = 0

    @property
    def known_samples(self) -> int | None:
        """Number of samples; None if the size of a batch is unknown or there were no samples."""
        return self.samples if self.samples and not self.unsized else None

    @property
    def known_tokens(self) -> int | None:
        """Number of tokens; None if those of a batch are unknown or there were none."""
        return self.tokens if self.tokens and self.counted == self.batches else None

    def plus(self, other: "Counts", times: int = 1) -> "Counts":
        """Return the batches, samples and tokens of both, with those of the other one so many times."""
        return Counts(
            self.batches + times * other.batches,
            self.samples + times * other.samples,
            self.unsized + times * other.unsized,
            self.compiled + times * other.compiled,
            self.counted + times * other.counted,
            self.tokens + times * other.tokens,
            self.compiled_tokens + times * other.compiled_tokens,
        )

    def since(self, earlier: "Counts") -> "Counts":
        """Return the batches, samples and tokens since an earlier count."""
        return self.plus(earlier, -1)


_NOTHING = Counts()


@dataclass(slots=True)
class Edge:
    """An edge in a device's queue of work, which the device may not have reached yet.

    Attributes:
        host_ns: When the host queued it.
        after_ns: The device had not reached it by then.
        time_ns: When the device reached it; None until that is known.
    """

    host_ns: int
    after_ns: int
    time_ns: int | None = None


Stamp = int | Edge
"""When something happened: the monotonic clock in ns, or an edge whose time becomes known later."""

Size = int | tuple[int | None, int | None] | None
"""The size of batches: their samples or, where their tokens were counted, both; None where it is unknown."""

Event = tuple[Literal["switch", "batches", "begin", "end", "samples"], Stamp, int, int, Size, "Event | None"]
"""What happened: (kind, stamp, bucket, number of batches, their size, begin or None), a plain tuple for speed.

The bucket is, by kind:

- "switch": the bucket that runs from then on, unless batches of its group overlap; it has no batches.
- "batches": batches that follow each other have ended; the same. They are counted in its group.
- "begin": a batch that may overlap others begins; it runs meanwhile. Outside the run, no batch begins.
- "end": such a batch has ended, whose begin is the last item; it runs once no other is running.
- "samples": samples were counted late, in the group of the bucket, which does not run from then on; the number of batches is
  the change of those of unknown size. Only the journal gets it.
"""


@dataclass(slots=True)
class _State:
    """State of a timeline at an instant.

    Attributes:
        since: The instant.
        running: The bucket that runs then.
        totals: Time in each bucket until then, in ns.
        counts: Batches and samples of each group until then.
        switches: The recent switches.
        begun: When what runs began, with the parts of it that ran before.
        overlapping: Number of running batches that may overlap others, by the bucket that runs meanwhile.
        outside: When the time outside the run last began; batches that began before belong to a run that has ended.
        switched: Number of switches so far.
        refused: Ids of the events with which batches began outside the run, which are not counted.
    """

    since: int
    running: int
    totals: list[int]
    counts: list[Counts]
    switches: deque[tuple[int, int]]
    begun: int
    overlapping: dict[int, int] = field(default_factory=dict)
    outside: int = 0
    switched: int = 1
    refused: set[int] = field(default_factory=set)

    def copy(self) -> "_State":
        counts = [each.plus(_NOTHING) for each in self.counts]  # a copy, quicker than by dataclasses.replace
        return replace(
            self,
            totals=self.totals[:],
            counts=counts,
            switches=self.switches.copy(),
            overlapping=dict(self.overlapping),
            refused=set(self.refused),
        )

    def advance(self, now: int) -> None:
        self.totals[self.running] += now - self.since
        self.since = now


class Timeline:
    """Exact totals of the time in each bucket, and the individual recent switches.

    Attributes:
        clock: Monotonic clock in ns.
        began_ns: Since when it is known what ran, in ns.
        stamp: Returns the timestamp of an event that happens now: the clock, or an edge in a device's queue of work.
        during: The bucket from a batch's start to its end.
        between: The bucket from a batch's end to the next one's start.
        groups: Group of each bucket.
        wholes: The bucket that each is counted together with: itself, or the one that it is a part of.
        journal: Called with each event once it has counted, and with the instant (ns) at which it did; None for nobody.
        queue: Events since the last look, oldest first. The training loop appends to it directly, without calling a method,
            and calls :meth:`drain_queue` if it holds more than :data:`LONGEST_QUEUE`.
    """

    def __init__(self, clock: Clock) -> None:
        """Start in bucket 0, the only bucket."""
        self.clock = clock
        self.stamp: Callable[[], Stamp] = clock
        self.during = self.between = OUTSIDE
        self.groups = [0]
        self.wholes = [OUTSIDE]
        self.journal: Callable[[int, Event], None] | None = None
        self.queue: deque[Event] = deque()
        # Held while the queue is drained; reentrant, because a signal handler may look during that.
        self._lock = threading.RLock()
        self._working = False
        self._compiling: set[int] = set()
        self._latencies: dict[int, Quantiles] = {}
        now = self.began_ns = clock()
        self._state = _State(now, OUTSIDE, [0], [Counts()], deque([(now, OUTSIDE)], maxlen=_REMEMBERED), now)

    def time_batches(self, group: int) -> None:
        """Record the quantiles of the durations of a group's batches."""
        self._latencies[group] = Quantiles()

    def latencies(self, group: int) -> Quantiles | None:
        """Return the durations of a group's batches in ns as of the last look; None if they are not recorded."""
        with self._lock:
            kept = self._latencies.get(group)
            return None if kept is None else kept.copy()

    def add_bucket(self, group: int = 0, whole: int | None = None, *, compiling: bool = False) -> int:
        """Add a bucket to a group of buckets that belong together, and return its index.

        Args:
            group: The group; groups are numbered from 0 without a gap.
            whole: The bucket that it is a part of, which is a part of no other; None if there is none.
            compiling: Whether batches that end in this bucket are counted separately, and not timed.
        """
        with self._lock:
            self.groups.append(group)
            self.wholes.append(len(self.wholes) if whole is None else whole)
            if group == len(self._state.counts):
                self._state.counts.append(Counts())
            self._state.totals.append(0)
            bucket = len(self._state.totals) - 1
            if compiling:
                self._compiling.add(bucket)
        return bucket

    def switch(self, bucket: int, *, queued: bool = False) -> int:
        """End the running bucket and begin this one; return the clock in ns.

        Args:
            bucket: The bucket.
            queued: Whether it begins as the edge of a batch does, when a device reaches it in its queue of work.
        """
        now = self.clock()
        self.queue.append(("switch", self.stamp() if queued else now, bucket, 0, None, None))
        return now

    def drain_queue(self) -> None:
        """Drain a long queue in the training loop itself."""
        with self._lock:
            if not self._working:
                self._drain(max(self.clock(), self._state.since))

    def add_samples(self, group: int, samples: int, unsized: int) -> None:
        """Add samples that were processed elsewhere or counted late, and change the number of batches of unknown size."""
        with self._lock:
            counts = self._state.counts[group]
            counts.samples += samples
            counts.unsized += unsized
            if self.journal is not None:
                now = self._state.since
                self.journal(now, ("samples", now, self.groups.index(group), unsized, samples, None))

    def discard(self) -> None:
        """Record nothing more, as in a fork: it has no thread that would free the lock."""
        self._lock = threading.RLock()
        self._working = False
        self.queue = deque(maxlen=0)

    def forget_edges(self) -> None:
        """Use the host's time for all edges whose time on the device is unknown: they are no longer queried."""
        for event in list(self.queue):
            stamp = event[1]
            if isinstance(stamp, Edge) and stamp.time_ns is None:
                stamp.time_ns = stamp.host_ns

    def look(self) -> "Look":
        """Return the state as of now."""
        with self._lock:
            # If a signal handler looks during another look, it gets the state that the other one has reached.
            now = self._state.since if self._working else max(self.clock(), self._state.since)
            if not self._working:
                self._drain(now)
            settled, switched = self._state.since, self._state.switched
            state = self._state.copy()
            if settled < now:  # for edges that the device has not reached, the host's time is used provisionally
                for event in list(self.queue):
                    stamp = event[1]
                    self._apply(state, stamp.host_ns if isinstance(stamp, Edge) else stamp, event)
                state.advance(max(now, state.since))
            final = len(state.switches) - (state.switched - switched)
            return Look(
                state.since, state.running, state.totals, state.switches, state.counts, settled, switched, max(0, final)
            )

    def _drain(self, now: int) -> None:
        """Drain the queue up to now, or up to the first edge whose time on the device is not known yet."""
        queue, state = self.queue, self._state
        self._working = True
        try:
            while queue:
                stamp = queue[0][1]
                if isinstance(stamp, Edge):
                    instant = stamp.time_ns
                    if instant is None:
                        if len(queue) <= LONGEST_QUEUE:
                            state.advance(max(state.since, min(stamp.after_ns, now)))
                            return
                        instant = stamp.host_ns  # the queue is too long to wait for the device
                else:
                    instant = stamp
                if instant > now:
                    break
                event = queue.popleft()
                self._apply(state, instant, event)
                if self.journal is not None:
                    self.journal(state.since, event)
            state.advance(now)
        finally:
            self._working = False

    def _apply(self, state: _State, instant: int, event: Event) -> None:
        # An event that was stamped before the last look, and appended after it, is counted at that look.
        if instant > state.since:
            state.totals[state.running] += instant - state.since
            state.since = instant
        kind, _, bucket, batches, size, begin = event
        if kind == "switch":
            if state.overlapping or bucket == OUTSIDE:
                bucket = self._switched(state, bucket)
        elif kind == "begin":
            if OUTSIDE in {state.running, bucket}:
                state.refused.add(id(event))  # no run has begun, or it has ended; or the batch was made then
                bucket = state.running
            else:
                state.overlapping[bucket] = state.overlapping.get(bucket, 0) + 1
        elif begin is None:
            self._count(state, instant - state.begun, bucket, batches, size)
            if state.overlapping:
                bucket = self._switched(state, bucket)
        elif id(begin) in state.refused or event_time(begin) < state.outside:
            state.refused.discard(id(begin))
            bucket = state.running  # its run has ended, or had not begun
        else:
            during = begin[2]
            self._count(state, instant - event_time(begin), during, batches, size)
            bucket = self._after(state, during, bucket)
        if bucket == state.running or self.wholes[bucket] != self.wholes[state.running]:
            state.begun = state.since
        state.running = bucket
        state.switches.append((state.since, bucket))
        state.switched += 1

    def _count(self, state: _State, duration: int, bucket: int, batches: int, size: Size) -> None:
        """Count batches that ended, in the group of a bucket; ``duration`` is the time in ns that they took together."""
        group = self.groups[bucket]
        counts = state.counts[group]
        compiling = state.running in self._compiling
        counts.batches += batches
        samples = size
        if isinstance(size, tuple):
            samples, tokens = size
            if tokens.__class__ is int and 0 <= tokens <= MOST_COUNT - counts.tokens:
                counts.counted += batches
                counts.tokens += tokens
                if compiling:
                    counts.compiled_tokens += tokens
        if samples.__class__ is int and 0 <= samples <= MOST_COUNT - counts.samples:
            counts.samples += samples
            if compiling:
                counts.compiled += samples
        else:  # unknown, or not a number, or too many to be true
            counts.unsized += batches
        # In a provisional state, durations are not recorded until it is settled.
        if group in self._latencies and state is self._state and not compiling:
            self._latencies[group].add(max(0, duration) // max(1, batches), batches)

    def _switched(self, state: _State, bucket: int) -> int:
        """Return the bucket that runs after a switch."""
        if bucket == OUTSIDE:
            state.overlapping.clear()
            state.outside = state.since
        elif self.groups[bucket] == self.groups[state.running]:
            # Another thread enters or leaves the stage, unless it is a part of the only batch that runs.
            part = self.wholes[bucket] == self.wholes[state.running] and sum(state.overlapping.values()) == 1
            return bucket if part else state.running
        return bucket

    def _after(self, state: _State, during: int, bucket: int) -> int:
        """Return the bucket that runs after a batch that may have overlapped others: ``bucket`` only if it was the last."""
        others = state.overlapping
        left = others.pop(during, 1) - 1
        if left > 0:
            others[during] = left
        # Other batches are still running, or another stage has begun, to which the time belongs.
        if left > 0 or self.groups[state.running] != self.groups[during]:
            return state.running
        return next(iter(others), bucket)


def event_time(event: Event) -> int:
    """Return the time of an event in ns; the host's time for an edge whose time on the device is unknown."""
    stamp = event[1]
    if isinstance(stamp, Edge):
        return stamp.host_ns if stamp.time_ns is None else stamp.time_ns
    return stamp


@dataclass(frozen=True, slots=True)
class Look:
    """A snapshot of a timeline.

    Attributes:
        now: Clock in ns.
        running: The running bucket.
        totals: Time in each bucket in ns.
        switches: The recent switches, oldest first: clock in ns, and the bucket that began. If there are
            :data:`_REMEMBERED` of them, earlier ones may have been dropped.
        counts: Batches and samples of each group.
        settled: Instant up to which the snapshot is final; after it, times may change until the device has reached its edges.
        switched: Number of switches up to that instant, since the timeline began.
        final: How many of ``switches`` are up to that instant.
    """

    now: int
    running: int
    totals: list[int]
    switches: Sequence[tuple[int, int]]
    counts: Sequence[Counts]
    settled: int
    switched: int
    final: int

    def rewind(self, instant: int) -> tuple[int, list[int], int]:
        """Go back towards an instant as far as individual switches are stored.

        Returns:
            The instant reached (later than the given one if earlier switches were dropped), the totals in ns at it, and the
            bucket that was running then. Time before the first switch is subtracted from bucket 0, whose total may be negative.
        """
        totals = self.totals[:]
        reached, bucket = self.now, self.running
        if instant >= reached:
            totals[bucket] += instant - reached
            return instant, totals, bucket
        for began, bucket in reversed(self.switches):
            if began <= instant:
                totals[bucket] -= reached - instant
                return instant, totals, bucket
            totals[bucket] -= reached - began
            reached = began
        if len(self.switches) < _REMEMBERED:
            totals[OUTSIDE] -= reached - instant
            return instant, totals, OUTSIDE
        return reached, totals, bucket


class TimelineReader:
    """Returns how long each bucket had run at instants of the recent past, and which one ran when."""

    def __init__(self, timeline: Timeline) -> None:
        """Read this timeline; one reader serves one thread."""
        self._timeline = timeline
        self._look = timeline.look()
        self._anchors: deque[tuple[int, list[int]]] = deque([(self._look.now, self._look.totals)], maxlen=_LOOKS)
        self._switched = 0
        self._history: list[tuple[int, int]] = []
        self._remember()

    def copy(self) -> "TimelineReader":
        """Return a reader that stays at this look, for another thread."""
        other = copy(self)
        other._anchors, other._history = self._anchors.copy(), self._history[:]  # noqa: SLF001 - its own
        return other

    def group(self, bucket: int) -> int:
        """Return the group of a bucket, or of the one that it is a part of."""
        return self._timeline.groups[self.whole(bucket)]

    def whole(self, bucket: int) -> int:
        """Return the bucket that one is counted together with: itself, or the one that it is a part of."""
        return self._timeline.wholes[bucket]

    def refresh(self) -> int:
        """Look again, and return the clock in ns."""
        self._look = self._timeline.look()
        if self._look.settled == self._look.now:
            self._anchors.append((self._look.now, self._look.totals))
        self._remember()
        return self._look.now

    def _remember(self) -> None:
        """Append the switches since the last look; if some were dropped meanwhile, forget all before."""
        look = self._look
        new, self._switched = look.switched - self._switched, look.switched
        if new > look.final:
            self._history.clear()
            new = look.final
        for switch in islice(look.switches, look.final - new, look.final):
            if self._history and self._history[-1][0] == switch[0]:
                self._history.pop()  # its phase lasted no time
            self._history.append(switch)
        if len(self._history) > 2 * _HISTORY:
            del self._history[:-_HISTORY]

    def buckets(self, group: int) -> list[int]:
        """Return the buckets of a group that are part of no other."""
        timeline = self._timeline
        return [bucket for bucket, each in enumerate(timeline.groups) if each == group and timeline.wholes[bucket] == bucket]

    @property
    def first_ns(self) -> int:
        """Instant of the oldest switch that is remembered, in ns."""
        return self._history[0][0] if self._history else self._look.now

    @property
    def closed_ns(self) -> int:
        """Instant of the latest final switch, in ns: until then it is known how long each phase lasted."""
        return self._history[-1][0] if self._history else self._look.now

    def switches(self, begin: int, end: int | None = None) -> int:
        """Return the number of final switches after an instant (ns), up to another one."""
        last = len(self._history) if end is None else bisect_right(self._history, end, key=_clock_of)
        return last - bisect_right(self._history, begin, key=_clock_of)

    def segments(self, begin: int, end: int) -> tuple[int, int]:
        """Return the number of segments that lie between two instants (ns), and their length in all, in ns."""
        history = self._history
        first = bisect_right(history, begin, key=_clock_of)
        last = bisect_right(history, end, key=_clock_of) - 1
        return (last - first, history[last][0] - history[first][0]) if last > first else (0, 0)

    def stretch(self, begin: int, end: int) -> tuple[list[tuple[int, int]], int | None]:
        """Return the switches between two instants (ns), with the two before them, and when the last phase of them ended.

        That is None if it has not ended, or if its end is not final yet.
        """
        history = self._history
        first = max(0, bisect_right(history, begin, key=_clock_of) - 2)
        last = bisect_left(history, end, key=_clock_of)
        return history[first:last], history[last][0] if last < len(history) else None

    @property
    def now(self) -> int:
        """Instant of the last look, in ns."""
        return self._look.now

    @property
    def settled(self) -> int:
        """Instant up to which the last look is final, in ns."""
        return self._look.settled

    @property
    def totals(self) -> list[int]:
        """Time in each bucket at the last look, in ns."""
        return self._look.totals

    def at(self, instant: int) -> tuple[list[float], int]:
        """Return the time in each bucket (ns) at an instant (ns), and the bucket that was running then.

        The times are exact for the last 1,024 switches. Before them, they are interpolated between two looks, which is accurate
        enough: with so many switches between two looks, the buckets are evenly mixed.
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
