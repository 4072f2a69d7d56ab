"""Detect when a batch waits for its data, at the gate through which watched data pass from their source to the loop.

If a loop fetches its data inside the step, no hook shows the wait. The wait of the k-th batch lasts until the k-th item has
been handed over: if the source runs in the loop's own thread, while it produces the item; in any other thread, until it has
produced the item.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.metrics import Phase, known_sum

_MOST_SIZES = 4096
"""Largest number of sizes that are stored for items not used yet."""

_FOREIGN = (-1, -1)
"""Ticket of an item that no loop will use, from a prefetching thread that outlived its loop."""


Size = tuple[int | None, int | None]
"""Number of samples and of tokens of an item; None where one is unknown."""


class Gate:
    """The point at which one watched source hands its items over.

    The loop calls the first group of methods, the source the second, each from any thread. While the gate is timed, only the
    gate switches the meter's phase inside a batch.

    Attributes:
        size: Returns the size of an item.
        resumes: Whether the source is iterated only once, so that a loop begins with the items that were fetched before it.
        elsewhere: Whether the source hands items over in its own threads.
        queued: Whether those threads fill a queue that persists from one pass to the next.
    """

    def __init__(self, meter: EnergyMeter, size: Callable[[Any], Size]) -> None:
        """Create a gate for this meter; ``size`` returns the size of an item."""
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
        """Whether the queue contains an unknown number of items, because it was filled before the loop began."""
        return self.queued and self._strays > 0

    def attach(self, *, timed: bool) -> None:
        """Serve the loop of this thread from now on: switch phases if ``timed``, else only store sizes."""
        with self._lock:
            self._thread = threading.get_ident()
            self._attached, self._timed = True, timed
            if not self.resumes:
                self._open()

    def detach(self) -> None:
        """Serve no loop; items that this thread fetches from now on may be the first ones of the next loop."""
        with self._lock:
            self._attached = self._in_batch = False
            self._begun = self._strays = 0
            self._open()

    def begin(self, working: Phase) -> None:
        """Begin a batch, which waits until its data have been handed over, and is then in the phase ``working``.

        TensorFlow compiles before it requests data: a batch that compiles waits only once it requests data itself.
        """
        with self._lock:
            self._begun += 1
            self._in_batch, self._working = True, working
            self._waits = self._handed < self._begun and working != "compile"
            self._meter.enter("data_wait" if self._waits else working)

    def work(self, phase: Phase) -> None:
        """Record the rest of the batch as another phase."""
        with self._lock:
            self._working = phase
            if not self._waits:
                self._meter.enter(phase)

    def end(self, samples: int | None, tokens: int | None, batches: int) -> None:
        """End a batch, or several that ran as one."""
        with self._lock:
            self._in_batch = False
            self._meter.batch_end(samples, tokens=tokens, batches=batches)

    def leave(self, phase: Phase) -> None:
        """Enter a phase between batches; this ends a batch that found no more data."""
        with self._lock:
            self._in_batch = False
            self._meter.enter(phase)

    def take(self, items: int) -> Size:
        """Return the size of the next ``items`` items together; None where one of theirs is unknown."""
        with self._lock:
            sizes = [self._sizes.popleft() if self._sizes and not self.lost_count else (None, None) for _ in range(items)]
        return known_sum([samples for samples, _ in sizes]), known_sum([tokens for _, tokens in sizes])

    # ---------------------------------------------------------------------------------------------------- the source

    def open(self) -> None:
        """Begin a new pass over the source: the remaining items of an earlier pass will not be used."""
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
        self._done: dict[int, Size] = {}
        self._sizes: deque[Size] = deque(maxlen=_MOST_SIZES)

    def ask(self) -> tuple[int, int]:
        """Register a request for the source's next item, and return a ticket for it."""
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

    def hand_over(self, ticket: tuple[int, int], size: Size) -> None:
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
        """Iterate over a source, with each item passing the gate."""
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
