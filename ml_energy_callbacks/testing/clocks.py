"""A clock that tests advance."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from ml_energy_callbacks.clock import NS_PER_S

_STEP_NS = 10_000
"""Least time between two steps of the same task."""


class ManualClock:
    """A monotonic clock that moves only when a test advances it.

    Attributes:
        now_ns: Its present time in ns.
    """

    def __init__(self, now_ns: int = NS_PER_S) -> None:
        """Start at ``now_ns``."""
        self.now_ns = now_ns
        self._followers: list[Callable[[], None]] = []
        self._begun = 0
        self._due: list[tuple[int, int, Iterator[float]]] = []  # time of the next step, number of the task, its steps

    def __call__(self) -> int:
        """Return the time in ns."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Advance by this many seconds, run the steps that are due in them, and call the followers."""
        end = self.now_ns + round(seconds * NS_PER_S)
        while self._due and self._due[0][0] <= end:
            due, number, steps = heappop(self._due)
            self._move(due)
            pause = next(steps, None)
            if pause is not None:
                heappush(self._due, (self.now_ns + max(_STEP_NS, round(pause * NS_PER_S)), number, steps))
        self._move(end)

    def _move(self, instant: int) -> None:
        if instant > self.now_ns:
            self.now_ns = instant
            for follower in self._followers:
                follower()

    def follow(self, follower: Callable[[], None]) -> None:
        """Call this function after each move."""
        self._followers.append(follower)

    def run(self, steps: Iterator[float]) -> None:
        """Run a task while the clock advances: each of its steps yields the number of seconds until the next one."""
        self._begun += 1
        heappush(self._due, (self.now_ns, self._begun, steps))
