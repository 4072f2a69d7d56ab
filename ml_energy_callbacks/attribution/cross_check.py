"""Compares an energy counter with the device's own power; pure."""

from dataclasses import dataclass

from ml_energy_callbacks.clock import NS_PER_S

LIMIT = 0.10
"""Above this difference there is a warning."""

_SHORTEST_NS = 2 * NS_PER_S
_LONGEST_STEP_NS = NS_PER_S
_EDGE_NS = 200_000_000
"""The counter may be behind by up to a refresh (0.1 s on most GPUs) at each end."""

_SIGMAS = 4.0
"""The comparison is repeated many times, and a false alarm would remain."""


@dataclass(slots=True)
class CrossCheck:
    """Joules by the counter and by integrated power, over the same time.

    Attributes:
        counted: By the counter, in J.
        integrated: By the trapezoidal rule, in J.
        elapsed_ns: Over this time.
    """

    counted: float = 0.0
    integrated: float = 0.0
    elapsed_ns: int = 0
    _last: tuple[int, float, float, int] | None = None
    _steps: int = 0
    _squares: float = 0.0

    def add_pair(self, time_ns: int, joules: float, watts: float, resets: int) -> None:
        """Add the counter and the power at one instant.

        Args:
            time_ns: Monotonic clock.
            joules: Cumulative joules by the counter, unwrapped.
            watts: Power in W.
            resets: How often the counter has jumped so far: what lies across a jump is not compared.
        """
        last, self._last = self._last, (time_ns, joules, watts, resets)
        if last is None or last[3] != resets or time_ns - last[0] > _LONGEST_STEP_NS:
            return
        self.counted += joules - last[1]
        self.integrated += (watts + last[2]) / 2 * (time_ns - last[0]) / NS_PER_S
        self.elapsed_ns += time_ns - last[0]
        self._steps += 1
        self._squares += watts**2

    def pause(self) -> None:
        """What lies between now and the next pair is not compared."""
        self._last = None

    @property
    def difference(self) -> float | None:
        """Counter / integrated power - 1; None before both were seen for 2 s."""
        if self.elapsed_ns < _SHORTEST_NS or self.integrated <= 0:
            return None
        return self.counted / self.integrated - 1

    @property
    def suspicious(self) -> bool:
        """Whether the two differ by more than 10 % and by more than chance explains: power is only sampled."""
        difference = self.difference
        if difference is None:
            return False
        mean = self.integrated / self.elapsed_ns * NS_PER_S
        scatter = max(0.0, self._squares / self._steps / mean**2 - 1) ** 0.5
        return bool(abs(difference) > LIMIT + _EDGE_NS / self.elapsed_ns + _SIGMAS * scatter / self._steps**0.5)
