"""Energy between knots -> power over the time of the run, in equal slices of bounded number; pure."""

from collections.abc import Callable, Sequence
from math import inf

FIRST_SLICE_S = 0.1
"""Length of a slice as long as there are few; it doubles whenever there are too many."""

MOST_SLICES = 2000

_STRETCH_S = 0.04
"""Shorter stretches are joined before their power is the least or the greatest: an error of a knot's time would show in it."""

Watts = list[float | None]
"""Power of each slice in W; None where nothing of the slice is known."""


class PowerTrace:
    """Mean, least and greatest power of a device in each slice of the run's time.

    Attributes:
        most: Most slices; of more, each two that follow each other are merged.
        slice_s: Length of a slice in s.
    """

    def __init__(self) -> None:
        """Begin at the start of the run."""
        self.most = MOST_SLICES
        self.slice_s = FIRST_SLICE_S
        self._mean: Watts = []
        self._low: Watts = []
        self._high: Watts = []
        self._now = 0.0  # how far it is, in s
        # Energy, known time, and extremes of the slice that is not full yet.
        self._joules = self._seconds = 0.0
        self._least, self._greatest = inf, -inf
        # The stretch of which there is too little yet.
        self._stretch_joules = self._stretch_s = 0.0

    def add(self, begin: float, end: float, joules: float) -> None:
        """Add the energy (J) that was used between two instants of the run (s), at an even power as far as that is known.

        What was used between the instant before and these is unknown.
        """
        self.skip(begin)
        begin = self._now
        if end <= begin:
            return
        self._make_room(end)
        watts = joules / (end - begin)
        self._stretch_joules += joules
        self._stretch_s += end - begin
        extreme = self._stretch_joules / self._stretch_s if self._stretch_s >= _STRETCH_S else None
        while self._now < end:
            edge = self._edge
            until = min(end, edge)
            self._joules += watts * (until - self._now)
            self._seconds += until - self._now
            self._now = until
            if extreme is not None:
                self._least, self._greatest = min(self._least, extreme), max(self._greatest, extreme)
            if end >= edge:
                self._finish_slice()
        if extreme is not None:
            self._stretch_joules = self._stretch_s = 0.0

    def skip(self, until: float) -> None:
        """Pass the time up to an instant (s), in which the energy is not known."""
        if until <= self._now:
            return
        self._make_room(until)
        while self._edge <= until:
            self._finish_slice()
        self._now = until
        self._stretch_joules = self._stretch_s = 0.0

    def slices(self) -> tuple[Watts, ...]:
        """Return the mean, least and greatest power of each slice in W, with 4 digits; the last slice may be shorter."""
        mean, low, high = self._mean[:], self._low[:], self._high[:]
        if self._seconds:
            for watts, value in zip((mean, low, high), self._open, strict=True):
                watts.append(value)
        return mean, low, high

    @property
    def _edge(self) -> float:
        """End of the slice that is not full yet, in s."""
        return (len(self._mean) + 1) * self.slice_s

    @property
    def _open(self) -> tuple[float | None, float | None, float | None]:
        """Mean, least and greatest power of the slice that is not full yet, in W."""
        if not self._seconds:
            return None, None, None
        mean = self._joules / self._seconds
        return _rounded(mean), _rounded(min(self._least, mean)), _rounded(max(self._greatest, mean))

    def _finish_slice(self) -> None:
        mean, low, high = self._open
        self._mean.append(mean)
        self._low.append(low)
        self._high.append(high)
        self._joules = self._seconds = 0.0
        self._least, self._greatest = inf, -inf

    def _make_room(self, until: float) -> None:
        """Merge slices until there are few enough up to an instant (s)."""
        while until > self.most * self.slice_s:
            if len(self._mean) % 2:  # the last full slice is the first half of the one that is not
                mean, low, high = self._mean.pop(), self._low.pop(), self._high.pop()
                if mean is not None and low is not None and high is not None:
                    self._joules += mean * self.slice_s
                    self._seconds += self.slice_s
                    self._least, self._greatest = min(self._least, low), max(self._greatest, high)
            self._mean, self._low, self._high = merge_pairs(self._mean, self._low, self._high)
            self.slice_s *= 2


def merge_pairs(mean: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None]) -> tuple[Watts, ...]:
    """Return the mean, least and greatest power of slices that are twice as long, from an even number of slices.

    Where nothing is known of one half, the other one stands for the whole.
    """
    return _halved(mean, lambda a, b: _rounded((a + b) / 2)), _halved(low, min), _halved(high, max)


def _halved(watts: Sequence[float | None], both: Callable[[float, float], float]) -> Watts:
    pairs = zip(watts[::2], watts[1::2], strict=True)
    return [b if a is None else a if b is None else both(a, b) for a, b in pairs]


def _rounded(watts: float) -> float:
    """Return a power with 4 digits, which are enough to draw it."""
    return float(f"{watts:.4g}")
