"""When a batch waits for its data: the place where watched data pass from their source to the loop.

A loop that takes its data inside the step shows no wait. The wait of the k-th batch lasts until the k-th item has been handed
over: in the loop's own thread while the source is asked, and in any other until the source is done with that item.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.metrics import Phase

_MOST_SIZES = 4096
"""Sizes that are kept of items that wait to be used."""

_FOREIGN = (-1, -1)
"""Ticket of an item that no loop will get: a prefetching thread outlived its loop."""


class Gate:
    """The place where one watched source hands its items over.

    The loop calls the first group of methods, the source the second, each from whatever thread it has. While the gate is
    timed, it alone switches the meter's phase inside a batch.

    Attributes:
        size: Tells the number of samples of an item, or None.
        resumes: Whether the source is passed over just once, so that a loop begins with what was taken before it.
        elsewhere: Whether the source hands over in threads of its own.
        queued: Whether those threads fill a queue that lasts from one pass to the next.
    """

    def __init__(self, meter: EnergyMeter, size: Callable[[Any], int | None]) -> None:
        """Serve this meter; ``size`` tells the number of samples of an item, or None."""
        self.size = size
        self.resumes = False
        self.elsewhere = self.queued = False
        self._meter = meter
        self._lock = threading.Lock()
        self._thread = threading.get_ident()
        self._strays = 0
        self._attached = False
        self._timed = False
        self._in_batch = False
        self._waits = False
        self._working: Phase = "compute"
        self._begun = 0
        self._pass = 0
        self._open()

    # ---------------------------------------------------------------------------------------------------- the loop

    @property
    def lost_count(self) -> bool:
        """Whether items are in the queue of which nobody knows how many: it was filled before the loop began."""
        return self.queued and self._strays > 0

    def attach(self, *, timed: bool) -> None:
        """Serve the loop of this thread from now on: switch phases where ``timed``, else keep sizes alone."""
        with self._lock:
            self._thread = threading.get_ident()
            self._attached, self._timed = True, timed
            if not self.resumes:
                self._open()

    def detach(self) -> None:
        """Serve no loop; what this thread takes from now on may be what the next loop begins with."""
        with self._lock:
            self._attached = self._in_batch = False
            self._begun = self._strays = 0
            self._open()

    def begin(self, working: Phase) -> None:
        """Begin a batch, which waits until its data are there and is in the phase ``working`` then.

        TensorFlow compiles before it asks for data: a batch that compiles does not wait unless it asks itself.
        """
        with self._lock:
            self._begun += 1
            self._in_batch, self._working = True, working
            self._waits = self._handed < self._begun and working != "compile"
            self._meter.enter("data_wait" if self._waits else working)

    def work(self, phase: Phase) -> None:
        """Take the rest of the batch for another phase."""
        with self._lock:
            self._working = phase
            if not self._waits:
                self._meter.enter(phase)

    def end(self, samples: int | None, batches: int) -> None:
        """End a batch, or so many that ran as one."""
        with self._lock:
            self._in_batch = False
            self._meter.batch_end(samples, batches)

    def leave(self, phase: Phase) -> None:
        """Enter a phase between batches; a batch that found no more data is over with that."""
        with self._lock:
            self._in_batch = False
            self._meter.enter(phase)

    def take(self, items: int) -> int | None:
        """Return the samples of the next so many items, or None where one is not known."""
        with self._lock:
            sizes = [self._sizes.popleft() if self._sizes and not self.lost_count else None for _ in range(items)]
        return None if None in sizes else sum(size or 0 for size in sizes)

    # ---------------------------------------------------------------------------------------------------- the source

    def open(self) -> None:
        """Begin a new pass over the source: what is left of an earlier one will not be used."""
        with self._lock:
            self._open()

    def _open(self) -> None:
        self._pass += 1
        self._handed = self._begun
        if self._in_batch and self._timed:  # this batch is the first of the pass
            self._handed -= 1
            if self._working != "compile":
                self._waits = True
                self._meter.enter("data_wait")
        self._asked = self._settled = 0
        self._done: dict[int, int | None] = {}
        self._sizes: deque[int | None] = deque(maxlen=_MOST_SIZES)

    def ask(self) -> tuple[int, int]:
        """Ask the source for its next item, and return a ticket for it."""
        own = threading.get_ident() == self._thread
        with self._lock:
            if not self._attached and not own:
                self._strays += 1
                return _FOREIGN
            ticket = (self._pass, self._asked)
            self._asked += 1
            if own and self._timed and self._in_batch:
                self._waits = True
                self._meter.enter("data_wait")
        return ticket

    def hand_over(self, ticket: tuple[int, int], size: int | None) -> None:
        """Hand over the item of a ticket; items count in the order of their tickets."""
        with self._lock:
            number, place = ticket
            if number != self._pass:
                return
            self._done[place] = size
            while self._settled in self._done:
                self._sizes.append(self._done.pop(self._settled))
                self._settled += 1
                self._handed += 1
            if not (self._timed and self._in_batch and self._waits):
                return
            if threading.get_ident() == self._thread or self._handed >= self._begun:
                self._waits = False
                self._meter.enter(self._working)

    def iterate(self, source: Iterable[Any]) -> Iterator[Any]:
        """Pass over a source, item by item."""
        self.open()
        iterator = iter(source)
        while True:
            ticket = self.ask()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.hand_over(ticket, self.size(item))
            yield item
