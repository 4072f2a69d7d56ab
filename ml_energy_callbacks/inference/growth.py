"""How the energy of a function has changed, and which part of it has grown; pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference.results import Verdict
from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.safe_text import describe

_LIMIT: Final = re.compile(r"\+?(\d{1,4}(?:\.\d{1,4})?) ?%")


class PartCost(msgspec.Struct, kw_only=True, frozen=True):
    """Time and energy of a part of a call.

    Attributes:
        seconds: Time in s.
        joules: Energy in J; None where it cannot be separated from that of the other parts.
        low_joules: Lower end of its 95 % interval, in J.
        high_joules: Upper end of the interval, in J.
    """

    seconds: float
    joules: float | None
    low_joules: float | None
    high_joules: float | None

    def times(self, of_seconds: float, of_joules: float) -> "PartCost":
        """Return the cost with its time, and its energy, this many times as large."""
        ends = (self.joules, self.low_joules, self.high_joules)
        joules, low, high = (None if end is None else end * of_joules for end in ends)
        return PartCost(seconds=self.seconds * of_seconds, joules=joules, low_joules=low, high_joules=high)


BASELINE: Final = "baseline"
"""What a function is compared with if not with another one."""

NOTHING: Final = PartCost(seconds=0.0, joules=0.0, low_joules=0.0, high_joules=0.0)
"""The cost of a part that did not run."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The functions as they were measured.

    Attributes:
        joules: Energy of a call in J by round, by function; rounds without a known one are left out.
        calls: Time and energy of a whole call, by function, from all calls.
        parts: Those of each part of a call, and of the rest, by function; empty where it marks no parts.
        notes: Why a function was not measured to the end, or without energy, in sentences.
        devices: Ids of the devices.
        provenance: How their energy is known; None without a device.
    """

    joules: Mapping[str, Mapping[int, float]]
    calls: Mapping[str, PartCost]
    parts: Mapping[str, Mapping[str, PartCost]]
    notes: list[str]
    devices: list[str]
    provenance: Provenance | None


class PartGrowth(msgspec.Struct, kw_only=True):
    """How a part of a call has changed.

    Attributes:
        name: Its name; ``rest`` is what is left of a call beside its parts.
        seconds: Change of its time in s.
        joules: Change of its energy in J; None where it is not known for each part.
        shown: Whether the intervals of its energy show that it is more: before and now they do not overlap.
    """

    name: str
    seconds: float
    joules: float | None
    shown: bool


class Growth(msgspec.Struct, kw_only=True):
    """How the energy of a call compares with what it was, or with that of another function.

    Attributes:
        name: The test.
        against: ``baseline``, or the name of the other function.
        joules: Energy of a call in J; None where it is unknown.
        joules_half_width: Half-width of its 95 % interval over the repeats, in J; None with fewer than two.
        relative: Energy of a call divided by that of the other, minus 1; None where one of them is unknown.
        half_width: Half-width of its 95 % interval.
        verdict: ``less``, ``more``, ``no difference`` or ``undecided``, as of a comparison.
        parts: Change of each part of a call, the largest growth in energy first, or in time where energy is not known for each;
            empty where the function marks none.
        repeats: Number of measured blocks of calls.
        provenance: ``measured`` where every device was, else ``estimated``; None without a device.
        devices: Ids of the devices.
        notes: What is to be said of the measurement, in sentences.
    """

    name: str
    against: str
    joules: float | None
    joules_half_width: float | None
    relative: float | None
    half_width: float | None
    verdict: Verdict
    parts: list[PartGrowth]
    repeats: int
    provenance: Provenance | None
    devices: list[str]
    notes: list[str]

    @property
    def grown(self) -> PartGrowth | None:
        """The part that has grown most, where the energy is ``more``; None where none has."""
        if self.verdict != "more" or not self.parts:
            return None
        first = self.parts[0]
        return first if (first.seconds if first.joules is None else first.joules) > 0 else None

    def exceeds(self, limit: float) -> bool:
        """Return whether the energy is ``more`` and may have grown by this share or more: the interval reaches it."""
        return (
            self.verdict == "more"
            and self.relative is not None
            and self.half_width is not None
            and self.relative + self.half_width >= limit
        )


def read_limit(text: str) -> float:
    """Return the share of a limit such as ``+5%``.

    Raises:
        ConfigurationError: It is no growth in percent.
    """
    found = _LIMIT.fullmatch(text.strip())
    limit = float(found[1]) / 100 if found is not None else 0.0
    if not limit:
        msg = f"The limit {describe(text)} is no growth in percent; write it as +5%."
        raise ConfigurationError(msg)
    return limit


def part_growth(before: Mapping[str, PartCost], now: Mapping[str, PartCost]) -> list[PartGrowth]:
    """Return how each part has changed, the largest growth first; nothing where one of both has no parts.

    A part that one of the two lacks costs nothing there.
    """
    if not before or not now:
        return []
    names = list(dict.fromkeys([*now, *before]))
    pairs = [(before.get(name, NOTHING), now.get(name, NOTHING)) for name in names]
    known = all(old.joules is not None and new.joules is not None for old, new in pairs)
    found = [
        PartGrowth(
            name=name,
            seconds=new.seconds - old.seconds,
            joules=(new.joules or 0.0) - (old.joules or 0.0) if known else None,
            shown=old.high_joules is not None and new.low_joules is not None and new.low_joules > old.high_joules,
        )
        for name, (old, new) in zip(names, pairs, strict=True)
    ]
    return sorted(found, key=lambda part: -(part.seconds if part.joules is None else part.joules))
