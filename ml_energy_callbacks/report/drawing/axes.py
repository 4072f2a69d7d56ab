"""Axes: round ticks from zero, and the unit with its SI prefix; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, log10

from ml_energy_callbacks.report.quantities import factor_of, prefix_of

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_TIMES = ((2 * 86400.0, 86400.0, "d"), (2 * 3600.0, 3600.0, "h"), (120.0, 60.0, "min"), (0.0, 1.0, "s"))
"""From which end on an axis of time has which unit, and its seconds."""

_TICKS_ACROSS = 8
_ROUNDING = 1e-9
_SMALLEST, _LARGEST = 1e-300, 1e300
"""Beyond them, the distance of two ticks may be no number."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis.

    Attributes:
        low: Value at its start.
        high: Value at its end.
        step: Distance of its ticks.
        unit: Unit of the numbers at the ticks.
        factor: What one of it is in the unit of the values.
    """

    low: float
    high: float
    step: float
    unit: str
    factor: float = 1.0

    @property
    def ticks(self) -> Sequence[float]:
        """The values at the ticks."""
        return [self.low + self.step * i for i in range(floor((self.high - self.low) / self.step + _ROUNDING) + 1)]

    def label(self, value: float) -> str:
        """Return the number at a tick."""
        return f"{round(value / self.step) * (self.step / self.factor):,.10g}"  # without the rounding errors of the sum

    def share(self, value: float) -> float:
        """Return where a value is on the axis: 0 at its start and 1 at its end, which it never leaves."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def axis_from_zero(values: Iterable[float], unit: str, ticks: int = 5) -> Axis:
    """Return an axis from zero to at least the largest value; its unit has an SI prefix."""
    most = max((value for value in values if abs(value) < _LARGEST), default=0.0)
    most = most if most > _SMALLEST else 1.0
    prefix = prefix_of(most, unit) if unit else ""
    factor = factor_of(prefix)
    step = _step(most / factor / ticks) * factor
    return Axis(0.0, _up(most, step), step, f"{prefix}{unit}", factor)


def axis_of_time(seconds: float) -> Axis:
    """Return an axis from zero to a time in seconds, where it ends."""
    seconds = seconds if seconds > _SMALLEST else 1.0
    _, factor, unit = next(entry for entry in _TIMES if seconds >= entry[0])
    return Axis(0.0, seconds, _step(seconds / factor / _TICKS_ACROSS) * factor, unit, factor)


def axis_of_numbers(last: float) -> Axis:
    """Return an axis of whole numbers from zero to the last one, where it ends."""
    last = max(last, 1.0)
    step = max(1.0, _step(last / _TICKS_ACROSS))
    return Axis(0.0, last, step if step.is_integer() else 2 * step, "")


def axis_around(values: Iterable[float], unit: str, ticks: int = 5) -> Axis:
    """Return an axis for values whose zero says nothing, such as those of a metric that the training improves."""
    known = [value if abs(value) > _SMALLEST else 0.0 for value in values if abs(value) < _LARGEST] or [0.0]
    low, high = min(known), max(known)
    if high - low <= abs(high) * _ROUNDING:
        low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
    step = _step((high - low) / ticks)
    start = floor(low / step + _ROUNDING) * step
    return Axis(start, start + _up(high - start, step), step, unit)


def _step(raw: float) -> float:
    magnitude = 10.0 ** floor(log10(raw))
    return next(step * magnitude for step in _STEPS if step * magnitude >= raw * (1 - _ROUNDING))


def _up(value: float, step: float) -> float:
    whole = round(value / step)
    return (whole if whole * step >= value * (1 - _ROUNDING) else whole + 1) * step
