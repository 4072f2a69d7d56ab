"""The energy of a stage, divided among its phases, each with its interval; pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ml_energy_callbacks.attribution.counters import most_watts
from ml_energy_callbacks.readings import Device

if TYPE_CHECKING:
    from ml_energy_callbacks.attribution.phase_energy import Target

WIDEST = 0.5
"""An estimate whose 95 % interval is wider than this share of it to one side is not reported; the interval is, in any case."""

_UNSEEN = 0.5
"""Energy of time for which there were no rows is divided by fitted power, which may be off by so much there."""

_NO_TIME_S = 1e-9
"""Less than a clock resolves."""


@dataclass(frozen=True, slots=True)
class Split:
    """Energy of one bucket of one device.

    Attributes:
        joules: Best estimate in J.
        low: Lower end of the 95 % interval in J.
        high: Its upper end.
        resolved: False where the bucket could not be separated from the others; the interval then covers all possible values.
    """

    joules: float
    low: float
    high: float
    resolved: bool

    @property
    def half_width(self) -> float:
        """The larger distance of the interval's ends from the estimate, in J."""
        return max(self.high - self.joules, self.joules - self.low)


def add_splits(splits: Sequence[Split]) -> Split:
    """Return the energy of several buckets of one device, whose intervals add up: it is late for all by the same time."""
    return Split(
        sum(split.joules for split in splits),
        sum(split.low for split in splits),
        sum(split.high for split in splits),
        resolved=all(split.resolved for split in splits),
    )


@dataclass(frozen=True, slots=True)
class Alone:
    """Intervals between refreshes in which a bucket ran alone: their energy is known without a fit.

    Attributes:
        seconds: Their length in s.
        joules: Their energy in J.
    """

    seconds: float = 0.0
    joules: float = 0.0


@dataclass(frozen=True, slots=True)
class Ends:
    """Intervals between refreshes in which a stage began or ended, so that a part of their energy is not the stage's.

    Attributes:
        inside: Energy in J that was given to the stage.
        outside: The rest in J.
    """

    inside: float = 0.0
    outside: float = 0.0


def split_stage(
    seconds: Sequence[float],
    whole: float,
    alone: Sequence[Alone],
    found: "Sequence[Target] | None",
    device: Device,
    idle_watts: float | None,
    ends: Ends,
) -> list[Split]:
    """Divide the energy of a stage among its phases, or that of a phase among its parts; the estimates add up to it.

    Args:
        seconds: Time of each phase in s.
        whole: Energy of the stage in J.
        alone: The intervals in which each phase ran alone.
        found: What was fitted of each phase; None if nothing was.
        device: The device.
        idle_watts: Its idle power in W; None if unknown. It narrows what would be told as a range only: what the fit tells, it
            tells by readings of this very run.
        ends: The intervals in which the stage began or ended; of a phase, how far its energy may be below and above that.
    """
    mixed = [max(0.0, time - own.seconds) for time, own in zip(seconds, alone, strict=True)]
    own = [each.joules for each in alone]
    left = whole - sum(own)
    most = most_watts(device)
    bounds, above_idle = (_bounds(mixed, own, left, ends, least, most) for least in (0.0, idle_watts or 0.0))
    if sum(time > _NO_TIME_S for time in mixed) <= 1:
        longest = max(mixed)
        exact = [energy + (left if longest > 0 and time == longest else 0.0) for energy, time in zip(own, mixed, strict=True)]
        if longest == 0.0:  # rounding
            exact[max(range(len(seconds)), key=seconds.__getitem__)] += left
        return [
            Split(energy, min(energy, low), max(energy, high), resolved=True)
            for energy, (low, high) in zip(exact, bounds, strict=True)
        ]
    if found is None:
        return [
            Split(min(max(energy + left * time / sum(mixed), low), high), low, high, resolved=low == high)
            for energy, time, (low, high) in zip(own, mixed, above_idle, strict=True)
        ]
    joules, halves = _estimates(seconds, mixed, own, whole, found, device.latency_s)
    joules = _within(joules, bounds, halves, whole)
    splits = [
        Split(
            energy,
            min(energy, max(low, energy - half)),
            max(energy, min(high, energy + half)),
            resolved=half <= WIDEST * energy or half <= _NO_TIME_S,
        )
        for energy, half, (low, high) in zip(joules, halves, bounds, strict=True)
    ]
    return _narrowed(splits, above_idle, halves, whole)


def choose(by_counter: list[Split], by_power: list[Split], *, contradictory: bool) -> list[Split]:
    """Return the narrower of two divisions of one energy or, where they contradict each other, intervals that contain both."""
    if not contradictory:
        return min((by_counter, by_power), key=lambda splits: sum(split.half_width for split in splits))
    hulls = [
        replace(one, low=min(one.low, other.low), high=max(one.high, other.high))
        for one, other in zip(by_counter, by_power, strict=True)
    ]
    return [replace(hull, resolved=hull.resolved and hull.half_width <= WIDEST * hull.joules) for hull in hulls]


def _narrowed(splits: list[Split], bounds: Sequence[tuple[float, float]], halves: Sequence[float], whole: float) -> list[Split]:
    """Return a division whose unresolved phases are within these bounds too, unless those contradict an interval."""
    both = [(max(split.low, low), min(split.high, high)) for split, (low, high) in zip(splits, bounds, strict=True)]
    if any(low > high for low, high in both):
        return splits
    both = [(split.low, split.high) if split.resolved else each for split, each in zip(splits, both, strict=True)]
    joules = _within([split.joules for split in splits], both, halves, whole)
    return [
        replace(split, joules=energy, low=min(low, energy), high=max(high, energy))
        for split, energy, (low, high) in zip(splits, joules, both, strict=True)
    ]


def _bounds(
    mixed: Sequence[float], own: Sequence[float], left: float, ends: Ends, least: float, most: float
) -> list[tuple[float, float]]:
    """Return the bounds of each phase's energy that need no model: what ran alone, and least and highest power otherwise."""
    left = max(0.0, left)
    fewest, largest = max(0.0, left - ends.inside), left + ends.outside
    mean = left / (sum(mixed) or 1.0)
    least = min(least, mean)
    most = max(most, mean)
    bounds = []
    for energy, time in zip(own, mixed, strict=True):
        others = sum(mixed) - time
        high = min(largest - least * others, most * time) if time > _NO_TIME_S else 0.0
        low = max(least * time, fewest - most * others) if others > _NO_TIME_S else fewest
        bounds.append((energy + min(low, high), energy + high))
    return bounds


def _estimates(
    seconds: Sequence[float],
    mixed: Sequence[float],
    own: Sequence[float],
    whole: float,
    found: "Sequence[Target]",
    latency_s: float,
) -> tuple[list[float], list[float]]:
    """Return each phase's energy and the half-width of its interval, with what no row covers."""
    covered = [min(time, target.seconds) for target, time in zip(found, seconds, strict=True)]
    joules = [max(0.0, target.joules) if time > 0 else 0.0 for target, time in zip(found, seconds, strict=True)]
    rest = [max(0.0, time - seen) * max(0.0, target.watts) for target, time, seen in zip(found, seconds, covered, strict=True)]
    left = whole - sum(joules)
    # What no row covers is at the power of the rest; a difference beyond that is the error of the stage's energy itself, which
    # is estimated where refreshes see several stages at once.
    unseen = min(max(left, 0.0), 2 * sum(rest))
    error = left - unseen
    fitted = sum(joules)
    halves = []
    for i, (target, seen, time) in enumerate(zip(found, covered, seconds, strict=True)):
        share = rest[i] / sum(rest) if sum(rest) > 0 else 0.0
        scaled = error * (joules[i] / fitted if fitted > 0 else time / sum(seconds))
        joules[i] += unseen * share + scaled
        late = latency_s * target.per_delay * (time / seen if seen > 0 else 0.0)
        # That the energy which no row covers is not what the fit expects is the error of some of it.
        rough = _UNSEEN * unseen * share * (1 - share) + abs(unseen - sum(rest)) * share
        halves.append(target.half_width + rough + abs(scaled) + late)
    return [(energy if time <= _NO_TIME_S else estimate) for energy, time, estimate in zip(own, mixed, joules, strict=True)], [
        0.0 if time <= _NO_TIME_S else half for time, half in zip(mixed, halves, strict=True)
    ]


def _within(
    joules: Sequence[float], bounds: Sequence[tuple[float, float]], halves: Sequence[float], whole: float
) -> list[float]:
    """Move estimates into their bounds, and what that adds or takes to the others by their half-widths."""
    moved = [min(max(energy, low), high) for energy, (low, high) in zip(joules, bounds, strict=True)]
    excess = whole - sum(moved)
    room = [
        (high - energy if excess > 0 else energy - low) * (half > 0)
        for energy, half, (low, high) in zip(moved, halves, bounds, strict=True)
    ]
    if sum(room) <= 0:
        return moved
    return [energy + excess * each / sum(room) for energy, each in zip(moved, room, strict=True)]
