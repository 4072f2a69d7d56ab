"""Edges of batches on a device's own time: a GPU is handed work ahead of time, and goes through it later.

An event is put into the device's queue at each edge, and asked now and then, without waiting, whether the device has come past
it. So the loop never stalls, as it would if it synchronised at each batch, and the window is the device's own.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from math import inf
from time import sleep
from typing import Any, Protocol

from ml_energy_callbacks.clock import Clock, monotonic_clock
from ml_energy_callbacks.timeline import Edge

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
    """Edges by events that a framework records; used by the training loop's thread alone.

    How far the device's time is from ours is known within bounds that each answer narrows: what had not passed when it was
    asked for passed later, and what had passed, before. Where the device has nothing to do, an event passes at once, and the
    bounds meet.
    """

    def __init__(self, record: Callable[[], Event | None], clock: Clock = monotonic_clock) -> None:
        """Make edges by ``record``, which puts an event into the device's queue; None where that cannot be done just now."""
        self._record = record
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        self._broken = False
        self._pending: deque[tuple[Event, Edge]] = deque()
        self._last: Event | None = None
        self._device_ns = 0.0  # of the last event, by the device's time since the first one
        self._low, self._high = -inf, inf  # bounds of our time less the device's, in ns

    def __call__(self) -> Edge | None:
        """Return the edge that is here in the device's queue; None where there is none, and the host's time serves."""
        if self._broken:
            return None
        try:
            self._resolve()
            if len(self._pending) >= _MOST:
                return None
            now = self._clock()
            event = self._record()
            if event is None:
                return None
            edge = Edge(now, now)
            self._pending.append((event, edge))
            self._resolve()
        except Exception:  # noqa: BLE001 - whatever a driver raises, training goes on, by the host's time
            self._give_up()
            self._broken = True
            return None
        return edge

    def settle(self) -> None:
        """Wait for the device to pass all edges, for a quarter of a second at most; what is left goes by the host's time."""
        end = self._clock() + _LAST_WAIT_NS
        with contextlib.suppress(Exception):  # as above
            self._resolve()
            while self._pending and self._clock() < end:
                sleep(_STEP_S)
                self._resolve()
        self._give_up()
        self._begin()

    def _resolve(self) -> None:
        """Learn what has passed since the last look."""
        while self._pending:
            event, edge = self._pending[0]
            asked = self._clock()
            if not event.query():
                edge.after_ns = asked
                return
            seen = self._clock()
            self._pending.popleft()
            edge.time_ns = self._place(event, edge.after_ns, seen)

    def _place(self, event: Event, after_ns: int, seen_ns: int) -> int:
        """Return when an event passed by our clock, which was between these two instants (ns)."""
        if self._last is not None:
            passed = self._last.elapsed_time(event) * _NS_PER_MS
            self._device_ns += passed
            self._low -= _DRIFT * passed
            self._high += _DRIFT * passed
        self._last = event
        low, high = after_ns - self._device_ns, seen_ns - self._device_ns
        self._low, self._high = max(low, self._low), min(high, self._high)
        if self._low > self._high:  # the clocks have parted further than they should
            self._low, self._high = low, high
        return round(self._device_ns + (self._low + self._high) / 2)

    def _give_up(self) -> None:
        for _, edge in self._pending:
            edge.time_ns = edge.host_ns
        self._pending.clear()
