"""Readings of power -> the instants at which they were renewed; pure.

A device renews its reading of power on a grid, as a counter its joules, and shows the same value at each poll until then. What
it shows is the mean over a window that ended at the renewal.
"""

from typing import NamedTuple

from ml_energy_callbacks.attribution.refresh_grid import RefreshGrid


class Renewal(NamedTuple):
    """A reading of power, and when it was renewed.

    Attributes:
        time_ns: The instant, monotonic clock.
        sigma_ns: Standard deviation of that instant.
        watts: What was read from then on, in W.
        starts: True if readings before it are missing.
    """

    time_ns: int
    sigma_ns: float
    watts: float
    starts: bool


class Renewals:
    """Renewals of one reading of power.

    Attributes:
        grid: Their instants.
    """

    def __init__(self) -> None:
        """Start without readings."""
        self.grid = RefreshGrid(repeats=True)
        self._watts: float | None = None
        self._last_ns: int | None = None

    def add(self, start: int, end: int, watts: float) -> Renewal | None:
        """Add a poll that ran from ``start`` to ``end`` (ns), and return the renewal of what it showed if that is known."""
        changed = watts != self._watts  # after a gap it was renewed since, whatever it is
        self._watts = watts
        refresh = self.grid.observe(start, end, changed=changed)
        if refresh is None or (self._last_ns is not None and refresh.time_ns <= self._last_ns):
            return None
        starts, self._last_ns = self._last_ns is None, refresh.time_ns
        return Renewal(refresh.time_ns, refresh.sigma_ns, watts, starts)

    def pause(self) -> None:
        """Readings are missing from now to the next one."""
        self._watts = self._last_ns = None
