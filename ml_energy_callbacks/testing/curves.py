"""True power of simulated devices over time, with its integral in closed form."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ml_energy_callbacks.clock import NS_PER_S, Clock


class Curve(Protocol):
    """A device's true power at every instant of the monotonic clock."""

    def watts(self, time_ns: int) -> float:
        """Return the power in W at an instant."""

    def joules(self, time_ns: int) -> float:
        """Return the energy in J up to an instant, from an arbitrary zero."""


class PowerCurve:
    """Power that a test sets step by step, with an exact integral; it is constant in between, or rises and falls linearly."""

    def __init__(self, clock: Clock, watts: float = 0.0, ramp_s: float = 0.0) -> None:
        """Draw ``watts`` from now on and at all times before.

        Args:
            clock: Monotonic clock in ns.
            watts: Power in W.
            ramp_s: Time in s in which power changes linearly to what is set; 0 for at once.
        """
        self._clock = clock
        self._ramp_s = ramp_s
        self._times = [clock()]
        self._watts = [(watts, watts)]  # at this instant, and at the end of the ramp
        self._joules = [0.0]

    def set(self, watts: float) -> None:
        """Draw ``watts`` from now on, or from the end of the ramp that begins now."""
        now = self._clock()
        self._joules.append(self.joules(now))
        self._watts.append((self.watts(now) if self._ramp_s else watts, watts))
        self._times.append(now)  # last, because another thread searches it

    def _place(self, time_ns: int) -> int:
        return max(0, bisect_right(self._times, time_ns) - 1)

    def _passed(self, place: int, time_ns: int) -> tuple[float, float]:
        """Return the time in s since a change of power, and that within its ramp."""
        seconds = (time_ns - self._times[place]) / NS_PER_S
        return seconds, max(0.0, min(seconds, self._ramp_s))

    def watts(self, time_ns: int | None = None) -> float:
        """Return the power in W at an instant (default: now)."""
        time_ns = self._clock() if time_ns is None else time_ns
        place = self._place(time_ns)
        begin, end = self._watts[place]
        _, ramp = self._passed(place, time_ns)
        return begin + (end - begin) * ramp / self._ramp_s if self._ramp_s else end

    def joules(self, time_ns: int | None = None) -> float:
        """Return the energy in J from the start of the curve to an instant (default: now); below zero before it."""
        time_ns = self._clock() if time_ns is None else time_ns
        place = self._place(time_ns)
        begin, end = self._watts[place]
        seconds, ramp = self._passed(place, time_ns)
        # Of a ramp, the power that is missing at first (begin - end) falls linearly to nothing.
        edge = (begin - end) * (ramp - ramp * ramp / (2 * self._ramp_s)) if self._ramp_s else 0.0
        return self._joules[place] + end * seconds + edge


@dataclass(frozen=True, slots=True)
class StepCurve:
    """Power that changes at predefined instants.

    Attributes:
        steps: (seconds after ``start_ns``, watts) in order of time; the first step's watts also apply before it, the last
            step's for ever.
        start_ns: Zero of the seconds, monotonic clock.
    """

    steps: Sequence[tuple[float, float]]
    start_ns: int = 0

    def watts(self, time_ns: int) -> float:
        """Return the power in W at an instant."""
        seconds = (time_ns - self.start_ns) / NS_PER_S
        return next((watts for since, watts in reversed(self.steps) if since <= seconds), self.steps[0][1])

    def joules(self, time_ns: int) -> float:
        """Return the energy in J since the first step; below zero before it."""
        seconds = (time_ns - self.start_ns) / NS_PER_S
        first, watts = self.steps[0]
        if seconds <= first:
            return watts * (seconds - first)
        ends = [since for since, _ in self.steps[1:]] + [math.inf]
        return sum(
            watts * (min(seconds, end) - since) for (since, watts), end in zip(self.steps, ends, strict=True) if since < seconds
        )


@dataclass(frozen=True, slots=True)
class SquareCurve:
    """Power that alternates between two levels.

    Attributes:
        low_watts: The lower level.
        high_watts: The higher level, with which each period begins.
        period_s: Length of a period in s.
        duty: Share of the period at the higher level.
        start_ns: An instant at which a period begins, monotonic clock.
    """

    low_watts: float
    high_watts: float
    period_s: float
    duty: float = 0.5
    start_ns: int = 0

    def watts(self, time_ns: int) -> float:
        """Return the power in W at an instant."""
        return (
            self.high_watts
            if (time_ns - self.start_ns) / NS_PER_S % self.period_s < self.duty * self.period_s
            else self.low_watts
        )

    def joules(self, time_ns: int) -> float:
        """Return the energy in J since ``start_ns``; below zero before it."""
        periods, seconds = divmod((time_ns - self.start_ns) / NS_PER_S, self.period_s)
        high = periods * self.duty * self.period_s + min(seconds, self.duty * self.period_s)
        return self.low_watts * (time_ns - self.start_ns) / NS_PER_S + (self.high_watts - self.low_watts) * high


@dataclass(frozen=True, slots=True)
class SineCurve:
    """Power that varies as a sine.

    Attributes:
        mean_watts: Mean power.
        swing_watts: Largest deviation from it.
        period_s: Length of a period in s.
        start_ns: An instant at which it rises through its mean, monotonic clock.
    """

    mean_watts: float
    swing_watts: float
    period_s: float
    start_ns: int = 0

    def _angle(self, time_ns: int) -> float:
        return 2 * math.pi * (time_ns - self.start_ns) / NS_PER_S / self.period_s

    def watts(self, time_ns: int) -> float:
        """Return the power in W at an instant."""
        return self.mean_watts + self.swing_watts * math.sin(self._angle(time_ns))

    def joules(self, time_ns: int) -> float:
        """Return the energy in J since ``start_ns``; below zero before it."""
        swing = self.swing_watts * self.period_s / (2 * math.pi) * (1 - math.cos(self._angle(time_ns)))
        return self.mean_watts * (time_ns - self.start_ns) / NS_PER_S + swing


def refreshed(time_ns: int, period_s: float, offset_s: float = 0.0) -> int:
    """Return the last instant of a refresh grid at or before ``time_ns``, in ns; a period of 0 refreshes all the time."""
    if not period_s:
        return time_ns
    period, offset = round(period_s * NS_PER_S), round(offset_s * NS_PER_S)
    return (time_ns - offset) // period * period + offset
