"""A clock that moves only when told to."""

from collections.abc import Callable

from ml_energy_callbacks.clock import NS_PER_S


class ManualClock:
    """A monotonic clock that moves only when told to.

    Attributes:
        now_ns: What it shows, in ns.
    """

    def __init__(self, now_ns: int = NS_PER_S) -> None:
        """Start at ``now_ns``."""
        self.now_ns = now_ns
        self._followers: list[Callable[[], None]] = []

    def __call__(self) -> int:
        """Return the time in ns."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds, and let those that follow the clock know."""
        self.now_ns += round(seconds * NS_PER_S)
        for follower in self._followers:
            follower()

    def follow(self, follower: Callable[[], None]) -> None:
        """Call this after each move."""
        self._followers.append(follower)
