"""Check the devices that were found.

Each must answer and show no more power than it can draw, each counter must change, and no two counters may be the same.
"""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, replace
from itertools import combinations
from math import isfinite

from ml_energy_callbacks.attribution.counters import most_watts
from ml_energy_callbacks.clock import NS_PER_S, REAL_TIME, Timing
from ml_energy_callbacks.deadline.calls import LateError, ThreadError, close, in_background, within
from ml_energy_callbacks.readings import Device, PowerSource, SharedSource, Source

_LONGEST_NS = NS_PER_S
"""The slowest known counters refresh every 0.1 s; a counter that does not change for this long is frozen."""
_STEP_S = 0.005
_DUPLICATE_CHECKS = 3
_QUICK_S = 0.5
"""A device that takes longer to answer is slow."""
_FEWEST_STEPS, _SHORTEST_NS = 3, NS_PER_S // 4
"""A counter is judged by no fewer changes, and in no shorter time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of the checks.

    Attributes:
        sources: The sources that passed; a GPU whose counter failed is among them if its power can be read instead.
        refused: Why the others are rejected, in a sentence, by device id. They are closed, except those whose driver hangs.
    """

    sources: Sequence[Source]
    refused: Mapping[str, str]


class _PowerFallback:
    """A source whose counter failed a check, measured by its power instead."""

    def __init__(self, source: PowerSource, why: str) -> None:
        self._source = source
        self.device: Device = replace(
            source.device,
            method="power_integration",
            wrap_joules=None,
            note=f"Its energy counter {why}: its power is integrated instead. {source.device.note or ''}".strip(),
        )

    def read(self) -> float:
        """Return the power in W."""
        return self._source.watts()

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def process_share(self, pids: Collection[int]) -> float | None:
        """Return the source's process share; None if unknown."""
        return self._source.process_share(pids) if isinstance(self._source, SharedSource) else None


def check_sources(sources: Sequence[Source], timing: Timing = REAL_TIME) -> Verdict:
    """Read all devices until each counter has changed, for a second at most, and reject those that fail the checks.

    A counter whose read fails with an error is kept: it may work later. A device that does not answer at all is rejected,
    because each read of it would block. One that is slow to answer would delay the checks of all: it is not checked here.

    Args:
        sources: The open devices.
        timing: The clock, and the time limits of devices.
    """
    hanging, slow = _find_slow([source for source in sources if not source.device.min_interval_s], timing.answer_s)
    refused = {
        name: f"{name} does not answer and is not counted: check `sudo dmesg` for messages of its driver." for name in hanging
    }
    answering = [source for source in sources if source.device.id not in hanging]
    checked = [source for source in answering if _can_check(source.device) and source.device.id not in slow]
    try:
        failures = within(timing.check_s, in_background(lambda: _check(checked, timing)))
    except (LateError, ThreadError):  # a device answered once and hangs now: this becomes a gap of the run; or no check began
        return Verdict(answering, refused)
    kept: list[Source] = []
    for source in answering:
        name = source.device.id
        why = failures.reasons.get(name)
        if why is None:
            kept.append(source)
        elif name in failures.by_power and isinstance(source, PowerSource):
            kept.append(_PowerFallback(source, why))
        else:
            counter = "" if source.device.method == "power_integration" or name in failures.copies else "The energy counter of "
            refused[name] = f"{counter}{name} {why}; it is not counted."
    close(source for source in answering if source.device.id in refused)
    return Verdict(kept, refused)


def _find_slow(sources: Sequence[Source], seconds: float) -> tuple[set[str], set[str]]:
    """Return the ids of the devices that do not even answer with an error within a time in s, and of those that are slow."""
    answers = {in_background(source.read): source.device.id for source in sources}
    slow = {answers[late] for late in wait(answers, timeout=min(_QUICK_S, seconds)).not_done}
    return {answers[late] for late in wait(answers, timeout=max(0.0, seconds - _QUICK_S)).not_done}, slow


@dataclass(frozen=True, slots=True)
class _Failures:
    """The devices that failed a check, by their ids.

    Attributes:
        reasons: What is wrong with each, as the end of a sentence.
        by_power: Those whose counter failed, and whose power can be read instead.
        copies: Those that show another device's counter.
    """

    reasons: Mapping[str, str]
    by_power: Collection[str]
    copies: Collection[str]


def _check(sources: Sequence[Source], timing: Timing) -> _Failures:
    counters = [source for source in sources if source.device.method == "energy_counter"]
    reasons = _watch([_Watched(source, timing.clock()) for source in sources], timing)
    by_power = {
        source.device.id
        for source in counters
        if source.device.id in reasons and isinstance(source, PowerSource) and _reports_power(source)
    }
    duplicates = _find_duplicates([source for source in counters if source.device.id not in reasons], timing)
    copies = {name: f"has the same counter as {other}" for name, other in duplicates.items()}
    return _Failures({**reasons, **copies}, by_power, copies)


def _can_check(device: Device) -> bool:
    return device.method != "model" and device.provenance == "measured" and not device.min_interval_s


def _read_or_none(source: Source) -> float | None:
    try:
        return source.read()
    except Exception:  # noqa: BLE001 - third-party code may raise anything
        return None


def _reports_power(source: PowerSource) -> bool:
    try:
        return 0 < source.watts() <= most_watts(source.device)
    except Exception:  # noqa: BLE001 - as above
        return False


class _Watched:
    """A device that is read until it is known whether it can be believed."""

    def __init__(self, source: Source, now: int) -> None:
        self.device = source.device
        self._source = source
        self._most_watts = most_watts(source.device)
        self._excess = f"shows more than {self._most_watts:,.0f} W, which it cannot draw"
        self._began = self._read_ns = now
        self._value = _read_or_none(source)
        # Of a counter that seems to run too fast, the joules of each change after the first, and the time that they took.
        self._steps: list[float] | None = None
        self._since = now

    def check(self, now: int) -> str | None:
        """Read the device again; return what is wrong with it, "" if nothing is, and None if that is not known yet."""
        before, self._value = self._value, _read_or_none(self._source)
        read_ns, self._read_ns = self._read_ns, now
        if before is None or self._value is None or not isfinite(self._value):
            return ""  # it may work later
        late = now - self._began > _longest_ns(self.device)
        if self.device.method == "power_integration":
            return "" if self._value <= self._most_watts else self._excess if late else None
        if self._value != before:
            return self._judge(self._value - before, read_ns, now)
        if self._steps is None:
            return "is frozen" if late else None
        return "" if late else None

    def _judge(self, joules: float, read_ns: int, now: int) -> str | None:
        """Judge a counter by a change, the last read before which was at ``read_ns``."""
        if self._steps is None:
            if joules <= self._most_watts * (now - self._began) / NS_PER_S:
                return ""
            # It is not known in what time the energy of the first change was drawn.
            self._steps, self._since, self._began = [], read_ns, now
            return None
        self._steps.append(joules)
        most = self._most_watts * (now - self._since) / NS_PER_S
        if sum(self._steps) <= most or joules < 0:
            return ""
        if len(self._steps) < _FEWEST_STEPS or now - self._since < _SHORTEST_NS:
            return None
        return self._excess if sum(self._steps) - max(self._steps) > most else ""  # one of them may be a jump


def _watch(waiting: Sequence[_Watched], timing: Timing) -> dict[str, str]:
    """Read devices until it is known of each whether it can be believed; return what is wrong with those that fail, by id."""
    failed: dict[str, str] = {}
    while waiting:
        timing.sleep(_STEP_S)
        verdicts = [(watched, watched.check(timing.clock())) for watched in waiting]
        failed |= {watched.device.id: why for watched, why in verdicts if why}
        waiting = [watched for watched, why in verdicts if why is None]
    return failed


def _longest_ns(device: Device) -> int:
    return max(_LONGEST_NS, round(1.5 * (device.update_period_s or 0.0) * NS_PER_S))


def _find_duplicates(counters: Sequence[Source], timing: Timing) -> dict[str, str]:
    """Return the counters that show another device's counter, with the other's id."""
    duplicates: dict[str, str] = {}
    for one, other in combinations(counters, 2):
        if one.device.kind == other.device.kind and one.device.id not in duplicates and _is_duplicate(one, other, timing):
            duplicates.setdefault(other.device.id, one.device.id)
    return duplicates


def _is_duplicate(one: Source, other: Source, timing: Timing) -> bool:
    """Return whether one counter's value repeatedly lies between two reads of the other."""
    for _ in range(_DUPLICATE_CHECKS):
        before, value, after = _read_or_none(one), _read_or_none(other), _read_or_none(one)
        if before is None or value is None or after is None or not before <= value <= after:
            return False
        # Wait for the next refresh: before it, a coincidence would merely repeat itself.
        end = timing.clock() + _longest_ns(one.device)
        while _read_or_none(one) == after and timing.clock() < end:
            timing.sleep(_STEP_S)
    return True
