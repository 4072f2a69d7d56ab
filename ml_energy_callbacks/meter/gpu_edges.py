"""Edges of batches on a device's own time: a GPU is handed work ahead of time, and goes through it later.

An event is put into the device's queue at each edge, and asked now and then, without waiting, whether the device has come past
it. So the loop never stalls, as it would if it synchronised at each batch, and the window is the device's own.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Protocol

from ml_energy_callbacks.attribution.timeline import Edge, Stamp
from ml_energy_callbacks.clock import REAL_TIME, Timing

_NS_PER_MS = 1_000_000
_MOST = 1024
"""Events that wait at once: CUDA itself takes no more work than this many launches ahead."""
_DRIFT = 20e-6
"""How far two clocks part at most: our assumption, crystals are good to some parts in a million."""
_LAST_WAIT_NS = 250_000_000
_STEP_S = 0.001


class Event(Protocol):
    """An event in a device's queue of work, such as ``torch.cuda.Event(enable_timing=True)``."""

    def query(self) -> bool:
        """Return whether the device has come past it."""

    def elapsed_time(self, end_event: Any, /) -> float:  # noqa: ANN401 - another event of the same framework
        """Return the time from this event to another, both passed, in ms."""


class DeviceEdges:
    """Edges by events that a framework records; made and used in the training loop's thread.

    No other thread asks for an event, since that would spoil a CUDA graph that the loop's thread may be capturing.

    How far the device's time is from ours is known within bounds that each answer narrows: what had not passed when it was
    asked for passed later, and what had passed, before. The lower bound is what is reckoned with: it is off by the least time
    that any event took to pass after it was recorded or last asked for, which is microseconds where the device had nothing to
    do. The upper one, off by the least time until a look, tells when the clocks have parted.
    """

    def __init__(self, record: Callable[[], Event | None], timing: Timing = REAL_TIME) -> None:
        """Make edges by ``record``, which puts an event into the device's queue; None where that cannot be done just now."""
        self._record = record
        self._clock = timing.clock
        self._sleep = timing.sleep
        self._thread = threading.get_ident()
        self._broken = False
        self._pending: deque[tuple[Event, Edge]] = deque()
        self._last: Event | None = None
        self._device_ns = 0.0  # of the last event, by the device's time since the first one
        self._low, self._high = -inf, inf  # bounds of our time less the device's, in ns

    def __call__(self) -> Stamp:
        """Return the edge that is here in the device's queue, or the host's time where there is none."""
        now = self._clock()
        if self._broken or len(self._pending) >= _MOST:
            self.resolve()
            return now
        try:
            event = self._record()
        except Exception:  # noqa: BLE001 - whatever a driver raises, training goes on, by the host's time
            self._give_up()
            return now
        if event is None:  # nothing may be asked now, either
            return now
        edge = Edge(now, now)
        self._pending.append((event, edge))
        self.resolve()
        return edge

    def resolve(self) -> None:
        """Learn what has passed since the last look; in any other thread than the loop's, do nothing."""
        if self._broken or not self._pending or threading.get_ident() != self._thread:
            return
        try:
            self._place(self._passed())
        except Exception:  # noqa: BLE001 - as above
            self._give_up()

    def settle(self) -> None:
        """Wait for the device to pass all edges, for a quarter of a second at most."""
        end = self._clock() + _LAST_WAIT_NS
        self.resolve()
        while self._pending and not self._broken and threading.get_ident() == self._thread and self._clock() < end:
            self._sleep(_STEP_S)
            self.resolve()

    def _passed(self) -> Sequence[tuple[Event, Edge, int]]:
        """Return the events that have passed, their edges, and when they were seen to have passed (ns)."""
        passed = []
        while self._pending:
            event, edge = self._pending[0]
            asked = self._clock()
            if not event.query():
                edge.after_ns = asked
                break
            passed.append((event, edge, self._clock()))
            self._pending.popleft()
        return passed

    def _place(self, passed: Sequence[tuple[Event, Edge, int]]) -> None:
        """Give edges their times by our clock, by all that is known of them together."""
        times = []
        for event, edge, seen_ns in passed:
            if self._last is not None:
                elapsed = self._last.elapsed_time(event) * _NS_PER_MS
                self._device_ns += elapsed
                self._low -= _DRIFT * elapsed
                self._high += _DRIFT * elapsed
            self._last = event
            times.append(self._device_ns)
            low, high = edge.after_ns - self._device_ns, seen_ns - self._device_ns
            self._low, self._high = max(low, self._low), min(high, self._high)
            if self._low > self._high:  # the clocks have parted further than they should
                self._low, self._high = low, high
        for (_, edge, seen_ns), device_ns in zip(passed, times, strict=True):
            edge.time_ns = min(max(round(device_ns + self._low), edge.after_ns), seen_ns)

    def _give_up(self) -> None:
        """Go by the host's time from now on."""
        self._broken = True
        for _, edge in self._pending:
            edge.time_ns = edge.host_ns
        self._pending.clear()
