"""A clock that moves only when told to."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from ml_energy_callbacks.clock import NS_PER_S

_STEP_NS = 10_000
"""Between two steps of the same work, the clock moves on by so much at least."""


class ManualClock:
    """A monotonic clock that moves only when told to.

    Attributes:
        now_ns: What it shows, in ns.
    """

    def __init__(self, now_ns: int = NS_PER_S) -> None:
        """Start at ``now_ns``."""
        self.now_ns = now_ns
        self._followers: list[Callable[[], None]] = []
        self._begun = 0
        self._due: list[tuple[int, int, Iterator[float]]] = []  # at which clock, which work

    def __call__(self) -> int:
        """Return the time in ns."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds, with all that runs in them, and let those that follow the clock know."""
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
        """Call this after each move."""
        self._followers.append(follower)

    def run(self, steps: Iterator[float]) -> None:
        """Run work while the clock moves on: each of its steps yields how many seconds to wait before the next one."""
        self._begun += 1
        heappush(self._due, (self.now_ns, self._begun, steps))
