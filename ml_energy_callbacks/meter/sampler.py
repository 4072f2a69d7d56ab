"""The threads that read the devices and hand the readings to their ledgers.

:class:`Poller` reads the devices, and :class:`Sampler` has a thread for each; a test steps both under a manual clock.
"""

import random
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import Any

from ml_energy_callbacks.attribution.counters import most_watts
from ml_energy_callbacks.attribution.ledger import Ledger
from ml_energy_callbacks.attribution.refresh_grid import RefreshGrid
from ml_energy_callbacks.attribution.steps import BREATH_S
from ml_energy_callbacks.attribution.timeline import Timeline, TimelineReader
from ml_energy_callbacks.clock import NS_PER_S, Clock, Timing
from ml_energy_callbacks.meter.recorder import Recorder
from ml_energy_callbacks.readings import PowerSource, Reading, Source

_DITHER = 0.4
"""Each wait is drawn from the interval x (1 +- this): fixed waits may synchronise with a counter's refreshes and hide them."""
_LAST_WAIT_NS = 250_000_000
"""Longest wait for the refresh after the end of the run; as much longer as readings of power are dated back."""
_LAST_STEP_S = 0.005
_FIRST_WAIT_NS = 500_000_000
"""Longest wait for the first refreshes at the start."""
_FIRST_STEP_S = 0.001
_JOIN_S = 1.0
_JOIN_STEP_S = 0.05
_WATCH_S = 0.1
_GUARD_S = 0.25
_STUCK_NS = 150_000_000
"""A read that is seen to go on for so long holds up the other devices of its thread, which then get one of their own."""
_THREAD = "ml-energy-sampler"
_LONGEST_READ_NS = NS_PER_S
"""If a read takes longer than this, the instant at which its value was true is unknown."""
_LONGEST_HOLD_NS = 200_000_000
"""Longest time for which readings are held back, if no mark waits for them and the device's refreshes are known."""
_LONGEST_SKIP_NS = NS_PER_S // 2
"""Power that was read longer ago is read at any read: for a second it stands in for a counter that jumps."""
Steps = Generator[float, None, None]
"""Work that yields how many seconds to wait before its next step."""

_NO_LOCK: AbstractContextManager[Any] = nullcontext()
FIRST_REVIEW_NS = NS_PER_S
REVIEW_NS = 5 * NS_PER_S
_LONGEST_REVIEW_NS = 8 * NS_PER_S
"""Longest pause between two reviews: the record on the disk is at most 10 s old."""
_REVIEW_RATIO = 50
"""Up to that, the pause after a review is at least this many times its duration, which is long with a long record."""


class _Polled:
    """A device that is polled, and its readings that are not in its ledger yet."""

    def __init__(self, source: Source, ledger: Ledger, now: int) -> None:
        self.source = source
        self.ledger = ledger
        # Asked once: what a protocol checks takes longer than a read.
        self.power = source if isinstance(source, PowerSource) else None
        self.soonest = self.due = self.held_ns = now  # from when a read is worth it, and by when it is to be read
        self.skips_power = False  # whether the next read is only to find a refresh of the counter
        self.shows_power = False  # whether its power could be read when it was last
        self.read_ns = self.power_ns = 0  # when the device, and its power, were last read
        self.value: float | None = None
        self.held: list[tuple[Reading, tuple[int, float] | None]] = []


class Poller:
    """Read each device when it is due.

    Attributes:
        random: Draws the dither of the waits; a test gives it a seed.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Source, Ledger]],
        timeline: Timeline,
        interval_s: float,
        lock: AbstractContextManager[Any] = _NO_LOCK,
        recorder: Recorder | None = None,
    ) -> None:
        """Poll these sources, each into its ledger, every ``interval_s`` seconds on average.

        The lock is held while ledgers change, never while a device is read. Once ``closed``, the ledgers no longer change. What
        is added to the ledgers is added to the recorder, too.
        """
        self._timeline = timeline
        self._clock: Clock = timeline.clock
        self._reader = TimelineReader(timeline)
        self._interval_s = interval_s
        self._interval_ns = interval_s * NS_PER_S
        self.random = random.Random()  # noqa: S311 - dither, not a secret
        now = self._next_round = self._clock()
        self._polled = [_Polled(source, ledger, now) for source, ledger in pairs]
        for _, ledger in pairs:
            ledger.begin(self._reader, now)
        self._lock = lock
        self._recorder = recorder
        self._handing_over = threading.Lock()
        self._reading: _Polled | None = None
        self._stuck: tuple[_Polled, int] | None = None  # what was seen to be read, and when first
        self.closed = False

    @property
    def sources(self) -> Sequence[Source]:
        """The devices that are polled."""
        return [polled.source for polled in self._polled]

    @property
    def quick(self) -> bool:
        """Whether none of the devices has a minimum interval between reads."""
        return not any(source.device.min_interval_s for source in self.sources)

    @property
    def next_poll(self) -> int:
        """Clock at which the next device is due, in ns."""
        return min((polled.due for polled in self._polled), default=self._next_round)

    def poll(self, end: int | None = None) -> None:
        """Read every device that a read is worth it of; after the ``end`` (ns), read all, but slow ones only once.

        A device is due only some time later, so that those that are read quickly share one wake-up.
        """
        now = self._clock()
        due = [
            polled
            for polled in self._polled
            if polled.soonest <= now or (end is not None and (not polled.source.device.min_interval_s or polled.read_ns < end))
        ]
        wanted = end is not None
        for polled in due:
            if not self._begin(polled):
                continue
            reading, before = read(polled.source, self._clock), polled.read_ns
            power = None
            stale = reading.ended_ns - polled.power_ns > _LONGEST_SKIP_NS
            if reading.value is not None and (stale or not polled.skips_power):
                power = _power(polled.power, self._clock)
                polled.shows_power, polled.power_ns = power is not None, reading.ended_ns
            polled.held.append((reading, power))
            self._reading = None
            polled.read_ns = reading.ended_ns
            wanted = wanted or self._wanted(polled, reading, reading.ended_ns - before)
            polled.value = reading.value
        now = self._clock()
        if now >= self._next_round:
            spread = 1 + _DITHER * (2 * self.random.random() - 1)
            self._next_round = now + round(self._interval_ns * spread)
        if wanted:
            self.feed_ledgers()
        for polled in due:
            if polled in self._polled:
                self._plan(polled, now)

    def _begin(self, polled: _Polled) -> bool:
        """Begin to read a device, unless it was handed over meanwhile."""
        with self._handing_over:
            mine = polled in self._polled
            self._reading = polled if mine else None
        return mine

    def relieve(self) -> "Poller | None":
        """Hand the other devices over to a new poller, if one was seen to be read for long; called by another thread."""
        polled, now = self._reading, self._clock()
        if polled is None or self._stuck is None or polled is not self._stuck[0] or polled.read_ns > self._stuck[1]:
            self._stuck = None if polled is None else (polled, now)
            return None
        if now - self._stuck[1] < _STUCK_NS:
            return None
        with self._handing_over:
            others = [other for other in self._polled if other is not polled]
            if not others or self._reading is not polled:
                return None
            relief = Poller((), self._timeline, self._interval_s, self._lock, self._recorder)
            relief._polled, self._polled = others, [polled]
        return relief

    @property
    def suspected(self) -> bool:
        """Whether a read was going on when it was last asked for relief."""
        return self._stuck is not None

    def take_back(self, relief: "Poller") -> None:
        """Read the devices of a poller that no thread could be started for."""
        with self._handing_over:
            self._polled = [*self._polled, *relief._polled]  # noqa: SLF001 - as above

    def _wanted(self, polled: _Polled, reading: Reading, pause: int) -> bool:
        """Return whether to add a device's readings to its ledger now; many at once take far less time than one by one.

        Args:
            polled: The device.
            reading: Its last reading.
            pause: Time in ns since the one before.
        """
        device, ledger, power = polled.source.device, polled.ledger, polled.ledger.power_grid
        fresh = device.method == "power_integration" or device.update_period_s is not None
        news = fresh or reading.value != polled.value
        return (
            reading.value is None
            or device.min_interval_s > 0
            or polled.held_ns + _LONGEST_HOLD_NS <= reading.started_ns + max(pause, self._interval_ns)
            or (news and (ledger.urgent or ledger.finder.grid.next_poll(reading.ended_ns) is not None))
            or (power is not None and polled.shows_power and power.next_poll(reading.ended_ns) is not None)
        )

    def hold(self, name: str, reading: Reading, power: tuple[int, float] | None) -> None:
        """Hold a reading of the device with this id, which was not read here, until the ledgers are fed.

        Args:
            name: The device's id.
            reading: The reading.
            power: When its power was read beside it (ns), and that power in W, or None.
        """
        for polled in self._polled:
            if polled.source.device.id == name:
                polled.held.append((reading, power))

    def feed_ledgers(self) -> None:
        """Add the readings that are held to their ledgers, and then rows of their fits, a piece of work at a time."""
        self._feed()
        for polled in self._polled:
            while self._work_off(polled.ledger):
                time.sleep(BREATH_S)  # the training may wait for the lock, or for the interpreter

    def _work_off(self, ledger: Ledger) -> bool:
        """Do a piece of work that is due, if there is one; return whether there was."""
        with self._lock:
            return not self.closed and ledger.work_off(self._reader)

    def _feed(self) -> None:
        with self._lock:
            if self.closed:
                return  # this thread hung in a read and was abandoned
            now = self._reader.refresh()
            for polled in self._polled:
                self._update(polled, now)
            if self._recorder is not None:
                self._recorder.add_readings(now, {polled.source.device.id: polled.held for polled in self._polled})
            for polled in self._polled:
                held, polled.held = polled.held, []
                if held:
                    polled.ledger.add_readings(held, self._reader)
                    polled.held_ns = held[-1][0].started_ns

    def _update(self, polled: _Polled, now: int) -> None:
        """Take over a device whose uncertainty has changed, as it depends on its load so far."""
        device = polled.source.device
        if polled.held and device.relative_uncertainty != polled.ledger.device.relative_uncertainty:
            polled.ledger.device = device
            if self._recorder is not None:
                self._recorder.add_uncertainty(now, device)

    def _plan(self, polled: _Polled, now: int) -> None:
        """Set when to read a device again, in ns."""
        ledger, least = polled.ledger, polled.source.device.min_interval_s
        polled.skips_power = False
        if least:
            polled.soonest = polled.due = now + round(max(self._interval_ns, least * NS_PER_S) * (1 + self._dither()))
            return
        polled.soonest = polled.due = self._next_round
        if ledger.finder.silent:
            return
        counter, power = ledger.finder.grid, ledger.power_grid
        polled.soonest, polled.due, polled.skips_power = self._due(ledger, counter, now)
        if power is not None and polled.shows_power:
            soonest, due, _ = self._due(ledger, power, now)
            polled.soonest = min(soonest, polled.soonest)
            if due <= polled.due:
                polled.due, polled.skips_power = due, False

    def _due(self, ledger: Ledger, grid: RefreshGrid, now: int) -> tuple[int, int, bool]:
        """Return from when and by when (ns) to read a device for one of its grids, and whether only to find a refresh."""
        wish, span = grid.next_poll(now), grid.span(now, self._next_round)
        latest = now + ledger.finder.longest_gap_ns // 2
        if wish is not None:
            latest = self._next_round if grid.regularity == "unknown" else latest
            due = min(max(wish, now), latest)
            return due, due, wish < latest
        if span is not None:
            first, last = span
            soonest = min(first, latest)
            due = soonest if ledger.urgent else min(latest, first + round((last - first) * self.random.random()))
            return soonest, due, False
        if ledger.seasoned and not ledger.urgent:
            return now + round(self._interval_ns), now + round(2 * self._interval_ns * (1 + self._dither())), False
        return self._next_round, self._next_round, False

    def _dither(self) -> float:
        """Return a share of a wait by which to make it longer."""
        return _DITHER * self.random.random()

    def known_until(self, instant: int) -> bool:
        """Return whether every device that can be read has been seen to refresh at or after the instant."""
        return all(polled.ledger.finder.silent or (polled.ledger.known_until or 0) >= instant for polled in self._polled)

    @property
    def behind_ns(self) -> int:
        """By how much the readings of a device are dated back at most, in ns."""
        return max((polled.ledger.finder.behind_ns for polled in self._polled), default=0)

    @property
    def ready(self) -> bool:
        """Whether the energy of every device that can be read is known up to some instant."""
        ledgers = [polled.ledger for polled in self._polled]
        return all(
            ledger.finder.silent or (ledger.known_until is not None and ledger.published is not None) for ledger in ledgers
        )

    def close(self, end: int | None = None) -> None:
        """End every device's chain of readings, as of the ``end`` (ns) or of now; a second call does nothing."""
        with self._lock:
            if self.closed:
                return
            self._feed()
            self.closed = True
            now = self._reader.refresh()
            if self._recorder is not None:
                self._recorder.close_devices(now, [source.device.id for source in self.sources])
            for polled in self._polled:
                polled.ledger.pause(self._reader, now if end is None else min(now, end))


def read(source: Source, clock: Clock) -> Reading:
    """Read a source once; an exception results in a reading without a value."""
    started = clock()
    value: float | None
    try:
        value = float(source.read())
    except Exception:  # noqa: BLE001 - a third party's backend may raise anything; the thread has to continue
        value = None
    ended = clock()
    return Reading(started, ended, value if ended - started <= _LONGEST_READ_NS else None)


def _power(source: PowerSource | None, clock: Clock) -> tuple[int, float] | None:
    """Read the power that a counter is compared with, and when; None where the source does not report it now."""
    if source is None:
        return None
    try:
        watts = float(source.watts())
    except Exception:  # noqa: BLE001 - as above
        return None
    return (clock(), watts) if 0 <= watts <= most_watts(source.device) else None


class _Stop:
    """An event for threads that wait most of the time: it waits in one call, whereas ``threading.Event`` runs Python code."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._set = False

    def set(self) -> None:
        if not self._set:
            self._set = True
            self._lock.release()

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float) -> bool:
        if self._lock.acquire(timeout=max(0.0, seconds)):
            self._lock.release()
        return self._set


def _started(thread: threading.Thread) -> bool:
    """Start a thread, and return whether that was possible: the number of a user's threads may be limited."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def _ignore(_: Exception) -> None:
    """Do nothing with an error."""


class Sampler:
    """One thread for each poller, and one that reads no device, so that a hanging driver blocks only its own thread.

    The devices of a poller share its thread until one of them is slow to answer: then the others get a thread of their own.

    What the threads do is written as steps, so that a test can run them without threads.
    """

    def __init__(
        self,
        pollers: Mapping[str, Poller],
        timing: Timing,
        review: Callable[[], None],
        watch: Callable[[], None] | None = None,
        fail: Callable[[Exception], None] = _ignore,
    ) -> None:
        """Set the pollers, by the names of their threads.

        The thread that reads no device calls ``review`` periodically (after 1, 2 and 4 s, then every 5 s), and ``watch`` every
        100 ms. A thread that an error ends calls ``fail`` with it.
        """
        self._clock = timing.clock
        self._sleep = timing.sleep
        self._review = review
        self._watch = watch
        self._fail = fail
        self._stopping = _Stop()
        self._end: int | None = None
        self._relieving = threading.Lock()
        self._pollers = pollers
        self._readers: list[tuple[threading.Thread, Poller]] = []
        self._reviewer: threading.Thread | None = None

    def start(self) -> Sequence[Source]:
        """Start the threads, and wait for the quick devices' first refreshes: from then on, energy is known.

        Returns:
            The sources for which no thread could be started, so that they are not read.
        """
        unread = self._begin()
        quick = [poller for poller in self._pollers.values() if poller.quick and not poller.closed]
        end = self._clock() + _FIRST_WAIT_NS
        while not all(poller.ready for poller in quick) and self._clock() < end:
            self._sleep(_FIRST_STEP_S)
        return unread

    def _begin(self) -> Sequence[Source]:
        unread: list[Source] = []
        for name, poller in self._pollers.items():
            thread = self._thread(poller, name)
            if _started(thread):
                self._readers.append((thread, poller))
            else:
                poller.close()
                unread += poller.sources
        reviewer = threading.Thread(target=self._look_after, name=_THREAD, daemon=True)
        self._reviewer = reviewer if _started(reviewer) else None
        return unread

    def _thread(self, poller: Poller, name: str) -> threading.Thread:
        return threading.Thread(target=self._read, args=(poller,), name=f"{_THREAD}-{name}", daemon=True)

    def stop(self, end: int) -> Sequence[Source]:
        """Wait for the refreshes that follow ``end`` (ns), end the threads and the chains of readings; from any thread.

        Returns:
            The sources of each thread that hangs in a device's driver and was abandoned.
        """
        self._end = end
        self._stopping.set()
        deadline = self._clock() + round(_JOIN_S * NS_PER_S)
        try:
            while (alive := [thread for thread, _ in self._readers if thread.is_alive()]) and self._clock() < deadline:
                alive[0].join(_JOIN_STEP_S)
                self._relieve_pollers()
            hanging = [source for thread, poller in self._readers if thread.is_alive() for source in poller.sources]
        finally:  # also where a further Ctrl-C ends the waiting
            for _, poller in self._readers:
                poller.close(end)
        if self._reviewer is not None and threading.current_thread() is not self._reviewer:
            self._reviewer.join(max(0.0, (deadline - self._clock()) / NS_PER_S))
        return hanging

    def _relieve_pollers(self) -> None:
        """Give a thread to the devices that wait for one that is slow to answer."""
        with self._relieving:
            for thread, poller in self._readers[:]:
                relief = poller.relieve()
                if relief is None:
                    continue
                another = self._thread(relief, thread.name.removeprefix(f"{_THREAD}-"))
                if _started(another):
                    self._readers.append((another, relief))
                else:
                    poller.take_back(relief)

    def _look_after(self) -> None:
        for pause in self._reviewing():
            self._stopping.wait(pause)

    def _read(self, poller: Poller) -> None:
        try:
            for pause in self._polling(poller):
                self._stopping.wait(pause)
            for pause in self._ending(poller):
                self._sleep(pause)
        except Exception as error:  # noqa: BLE001 - nobody foresaw it; from here on the devices' energy is missing
            self._fail(error)
            poller.close()

    def _reviewing(self) -> Steps:
        pause = FIRST_REVIEW_NS
        review = self._clock() + pause
        watch = inf if self._watch is None else _WATCH_S
        guards = any(len(poller.sources) > 1 for poller in self._pollers.values())
        while True:
            suspected = any(poller.suspected for _, poller in self._readers)
            guard = inf if not guards else _STUCK_NS / NS_PER_S if suspected else _GUARD_S
            yield min((review - self._clock()) / NS_PER_S, watch, guard)
            if self._stopping.is_set():
                return
            self._relieve_pollers()
            if self._watch is not None:
                self._watch()
            begun = self._clock()
            if begun >= review and not self._stopping.is_set():
                self._review()
                now = self._clock()
                pause = min(2 * pause, REVIEW_NS)
                review = now + min(max(pause, _REVIEW_RATIO * (now - begun)), _LONGEST_REVIEW_NS)

    def _polling(self, poller: Poller) -> Steps:
        while self._end is None:
            poller.poll()
            yield (poller.next_poll - self._clock()) / NS_PER_S

    def _ending(self, poller: Poller) -> Steps:
        """Poll until every device has refreshed after the end, and close the poller."""
        end = self._clock() if self._end is None else self._end
        latest = end + _LAST_WAIT_NS + poller.behind_ns
        while not poller.closed and not poller.known_until(end) and self._clock() < latest:
            poller.poll(end)
            yield min(_LAST_STEP_S, max(0.0, (poller.next_poll - self._clock()) / NS_PER_S))
        poller.close()  # at once, because other pollers may take longer
