"""Timestamps of batch edges on a GPU: the host queues work ahead of time, and the GPU runs it later.

At each edge, an event is recorded in the device's queue. The pending events are queried from time to time, without waiting, to
detect whether the device has reached them. The loop therefore never stalls, as it would if it synchronised at each batch, and
windows begin and end when the device reaches their edges.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Protocol

from ml_energy_callbacks.attribution.timeline import Edge, Stamp
from ml_energy_callbacks.clock import REAL_TIME, Timing
from ml_energy_callbacks.meter.unforeseen import pass_users_error

_NS_PER_MS = 1_000_000
_MOST = 1024
"""Largest number of pending events: CUDA itself queues at most this many launches."""
_DRIFT = 20e-6
"""Bound on the relative drift of two clocks. Our assumption: crystals are accurate to some parts per million."""
_LAST_WAIT_NS = 250_000_000
_STEP_S = 0.001


class Event(Protocol):
    """An event in a device's queue of work, such as ``torch.cuda.Event(enable_timing=True)``."""

    def query(self) -> bool:
        """Return whether the device has reached the event."""

    def elapsed_time(self, end_event: Any, /) -> float:  # noqa: ANN401 - another event of the same framework
        """Return the time in ms from this event to another; the device must have reached both."""


class DeviceEdges:
    """Timestamps of edges from events that a framework records; created and used in the training loop's thread.

    No other thread queries an event, because that would invalidate a CUDA graph that the loop's thread may be capturing.

    The offset between the host's clock and the device's is known within bounds, which each query narrows: an event that the
    device had not reached when it was queried was reached later, and an event that it had reached was reached before.
    Timestamps use the lower bound. Its error is the least time that any event took to be reached after it was recorded or last
    queried, which is microseconds if the device was idle. The upper bound, whose error is the least time from an event to its
    query, shows when the clocks have drifted apart.
    """

    def __init__(self, record: Callable[[], Event | None], timing: Timing = REAL_TIME) -> None:
        """Set the function that records an event in the device's queue; it returns None if that is not possible at present."""
        self._record = record
        self._clock = timing.clock
        self._sleep = timing.sleep
        self._thread = threading.get_ident()
        self._broken = False
        self._pending: deque[tuple[Event, Edge]] = deque()
        self._last: Event | None = None
        self._device_ns = 0.0  # device's time of the last event, since the first event
        self._low, self._high = -inf, inf  # bounds of the host's time minus the device's time, in ns

    def __call__(self) -> Stamp:
        """Return an edge at the end of the device's queue, or the host's time in ns if no event can be recorded."""
        now = self._clock()
        if self._broken or len(self._pending) >= _MOST:
            self.resolve()
            return now
        try:
            event = self._record()
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; training continues with the host's time
            pass_users_error(error)
            self._give_up()
            return now
        if event is None:  # events must not be queried now, either
            return now
        edge = Edge(now, now)
        self._pending.append((event, edge))
        self.resolve()
        return edge

    def resolve(self) -> None:
        """Query the pending events; do nothing in other threads than the loop's."""
        if self._broken or not self._pending or threading.get_ident() != self._thread:
            return
        try:
            self._place(self._passed())
        except Exception as error:  # noqa: BLE001 - as above
            pass_users_error(error)
            self._give_up()

    def settle(self) -> None:
        """Wait until the device has reached all edges, for at most a quarter of a second."""
        end = self._clock() + _LAST_WAIT_NS
        self.resolve()
        while self._pending and not self._broken and threading.get_ident() == self._thread and self._clock() < end:
            self._sleep(_STEP_S)
            self.resolve()

    def _passed(self) -> Sequence[tuple[Event, Edge, int]]:
        """Return the events that the device has reached, their edges, and when that was detected (ns)."""
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
        """Set the times of edges on the host's clock, after narrowing the bounds with all of them."""
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
            if self._low > self._high:  # the clocks have drifted by more than the bound
                self._low, self._high = low, high
        for (_, edge, seen_ns), device_ns in zip(passed, times, strict=True):
            edge.time_ns = min(max(round(device_ns + self._low), edge.after_ns), seen_ns)

    def _give_up(self) -> None:
        """Use the host's time from now on."""
        self._broken = True
        for _, edge in self._pending:
            edge.time_ns = edge.host_ns
        self._pending.clear()
