"""The only thread: reads the devices and hands the readings to their ledgers.

:class:`Poller` is the work without the thread, so that it runs under a manual clock; :class:`Sampler` is the thread.
"""

import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import sleep
from typing import Any

from ml_energy_callbacks.attribution import Ledger
from ml_energy_callbacks.clock import NS_PER_S, Clock
from ml_energy_callbacks.readings import Reading, Source
from ml_energy_callbacks.timeline import Timeline, TimelineReader

_DITHER = 0.4
"""Each wait is drawn from the interval x (1 +- this): a fixed one locks to a counter's refresh and then hides it."""
_LAST_WAIT_NS = 250_000_000
"""At the end, the refresh that follows the run is waited for, for this long at most."""
_LAST_STEP_S = 0.005
_FIRST_WAIT_NS = 500_000_000
"""At the start, the first refreshes are waited for, for this long at most."""
_FIRST_STEP_S = 0.001
_JOIN_S = 1.0
_NO_LOCK: AbstractContextManager[Any] = nullcontext()
_FIRST_REVIEW_NS = NS_PER_S
REVIEW_NS = 5 * NS_PER_S


class Poller:
    """Read each device when it is due."""

    def __init__(
        self,
        sources: Sequence[Source],
        ledgers: Sequence[Ledger],
        timeline: Timeline,
        interval_s: float,
        lock: AbstractContextManager[Any] = _NO_LOCK,
    ) -> None:
        """Poll these sources into these ledgers, each into its own, every ``interval_s`` seconds on average.

        The lock is held while ledgers change, never while a device is read. Once ``closed``, nothing changes any more.
        """
        self._pairs = list(zip(sources, ledgers, strict=True))
        self._clock: Clock = timeline.clock
        self._reader = TimelineReader(timeline)
        self._interval_ns = interval_s * NS_PER_S
        self._random = random.Random()  # noqa: S311 - dither, not a secret
        now = self._clock()
        self._next_round = now
        self._due = [now] * len(self._pairs)
        self._lock = lock
        self.closed = False

    @property
    def next_poll(self) -> int:
        """Clock at which the next device is due, in ns."""
        return min(self._due, default=self._next_round)

    def poll(self, *, hurry: bool = False) -> None:
        """Read every device that is due; in a hurry, every device."""
        now = self._clock()
        readings = [(i, read(source, self._clock)) for i, (source, _) in enumerate(self._pairs) if hurry or self._due[i] <= now]
        with self._lock:
            if self.closed:
                return  # this thread hung in a read and was given up
            now = self._reader.refresh()
            if now >= self._next_round:
                spread = 1 + _DITHER * (2 * self._random.random() - 1)
                self._next_round = now + round(self._interval_ns * spread)
            for i, reading in readings:
                ledger = self._pairs[i][1]
                ledger.take(reading, self._reader)
                wish = None if ledger.finder.silent else ledger.finder.grid.next_poll(now)
                self._due[i] = self._next_round if wish is None else min(self._next_round, max(wish, now))

    def known_until(self, instant: int) -> bool:
        """Return whether every device that can be read has been seen to refresh at or after the instant."""
        return all(ledger.finder.silent or (ledger.known_until or 0) >= instant for _, ledger in self._pairs)

    @property
    def ready(self) -> bool:
        """Whether the energy of every device that can be read is known up to some instant."""
        return all(
            ledger.finder.silent or (ledger.known_until is not None and ledger.published is not None)
            for _, ledger in self._pairs
        )

    def close(self) -> None:
        """End every device's chain of readings."""
        with self._lock:
            self.closed = True
            now = self._reader.refresh()
            for _, ledger in self._pairs:
                ledger.pause(self._reader, now)


def read(source: Source, clock: Clock) -> Reading:
    """Read a source once; whatever it raises becomes a reading without a value."""
    started = clock()
    value: float | None = None
    # A third party's backend may raise anything; nothing of it may end the thread that all devices share.
    with contextlib.suppress(Exception):
        value = source.read()
    return Reading(started, clock(), value)


class Sampler:
    """The thread around a poller."""

    def __init__(
        self, poller: Poller, clock: Clock, review: Callable[[], None], watch: Callable[[], None] | None = None
    ) -> None:
        """Poll in a thread of its own.

        Call ``review`` there now and then (after 1, 2 and 4 s, then every 5 s), and ``watch`` after each poll.
        """
        self._poller = poller
        self._clock = clock
        self._review = review
        self._watch = watch
        self._stopping = threading.Event()
        self._end: int | None = None
        self._thread = threading.Thread(target=self._run, name="ml-energy-sampler", daemon=True)

    def start(self) -> None:
        """Start the thread, and wait for the first refreshes: from then on, there is always a figure to tell."""
        self._thread.start()
        end = self._clock() + _FIRST_WAIT_NS
        while not self._poller.ready and self._clock() < end:
            sleep(_FIRST_STEP_S)

    def stop(self, end: int) -> bool:
        """Wait for the refreshes that follow ``end`` (ns), end the thread and the chains of readings; from any thread.

        Returns:
            False where the thread hangs in a device's driver and was left to itself.
        """
        self._end = end
        self._stopping.set()
        if threading.current_thread() is self._thread:
            self._drain(end)
            self._poller.close()
            return True
        self._thread.join(_JOIN_S)
        hangs = self._thread.is_alive()
        self._poller.close()
        return not hangs

    def _run(self) -> None:
        pause = _FIRST_REVIEW_NS
        review = self._clock() + pause
        while self._end is None:
            self._poller.poll()
            if self._watch is not None:
                self._watch()
            now = self._clock()
            if now >= review:
                self._review()
                pause = min(2 * pause, REVIEW_NS)
                review = now + pause
            self._stopping.wait(max(0.0, (self._poller.next_poll - self._clock()) / NS_PER_S))
        self._drain(self._end)

    def _drain(self, end: int) -> None:
        while not self._poller.closed and not self._poller.known_until(end) and self._clock() < end + _LAST_WAIT_NS:
            self._poller.poll(hurry=True)
            sleep(min(_LAST_STEP_S, max(0.0, (self._poller.next_poll - self._clock()) / NS_PER_S)))
