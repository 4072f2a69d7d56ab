"""Check the devices that were found: each must answer, each counter must change, and no two counters may be the same."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, replace
from itertools import combinations

from ml_energy_callbacks.clock import NS_PER_S, REAL_TIME, Timing
from ml_energy_callbacks.deadline import LateError, close, in_background, within
from ml_energy_callbacks.readings import Device, PowerSource, SharedSource, Source

_LONGEST_NS = NS_PER_S
"""The slowest known counters refresh every 0.1 s; a counter that does not change for this long is frozen."""
_STEP_S = 0.005
_DUPLICATE_CHECKS = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of the checks.

    Attributes:
        sources: The sources that passed; a GPU with a frozen counter is among them if its power can be read instead.
        refused: Why the others are rejected, in a sentence, by device id. They are closed, except those whose driver hangs.
    """

    sources: Sequence[Source]
    refused: Mapping[str, str]


class _PowerFallback:
    """A source with a frozen counter, measured by its power instead."""

    def __init__(self, source: PowerSource) -> None:
        self._source = source
        self.device: Device = replace(
            source.device,
            method="power_integration",
            wrap_joules=None,
            note=f"Its energy counter is frozen: its power is integrated instead. {source.device.note or ''}".strip(),
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
    """Read all counters until each has changed, for a second at most, and reject those that fail the checks.

    A counter whose read fails with an error is kept: it may work later. A device that does not answer at all is rejected,
    because each read of it, and of others with the same driver, would block.

    Args:
        sources: The open devices.
        timing: The clock, and the time limits of devices.
    """
    hanging = _find_hanging([source for source in sources if not source.device.min_interval_s], timing.answer_s)
    refused = {
        name: f"{name} does not answer and is not counted: check `sudo dmesg` for messages of its driver." for name in hanging
    }
    answering = [source for source in sources if source.device.id not in hanging]
    counters = [source for source in answering if _has_fast_counter(source.device)]
    try:
        failures = within(timing.check_s, in_background(lambda: _check_counters(counters, timing)))
    except LateError:  # a device answered once and hangs now: this becomes a gap of the run
        return Verdict(answering, refused)
    kept: list[Source] = []
    for source in answering:
        name = source.device.id
        if name in failures.by_power and isinstance(source, PowerSource):
            kept.append(_PowerFallback(source))
        elif name in failures.frozen:
            refused[name] = f"The energy counter of {name} is frozen; it is not counted."
        elif name in failures.duplicates:
            refused[name] = f"{name} has the same counter as {failures.duplicates[name]}; it is not counted."
        else:
            kept.append(source)
    close(source for source in answering if source.device.id in refused)
    return Verdict(kept, refused)


def _find_hanging(sources: Sequence[Source], seconds: float) -> set[str]:
    """Return the ids of the devices that do not answer, not even with an error, within a time in s."""
    answers = {in_background(source.read): source.device.id for source in sources}
    return {answers[late] for late in wait(answers, timeout=seconds).not_done}


@dataclass(frozen=True, slots=True)
class _Failures:
    """The counters that failed a check, by the ids of their devices.

    Attributes:
        frozen: Those that are frozen.
        by_power: Those of the frozen ones whose device reports its power.
        duplicates: Those that show another device's counter, with the other's id.
    """

    frozen: Collection[str]
    by_power: Collection[str]
    duplicates: Mapping[str, str]


def _check_counters(counters: Sequence[Source], timing: Timing) -> _Failures:
    frozen = _find_frozen(counters, timing)
    by_power = {
        source.device.id
        for source in counters
        if source.device.id in frozen and isinstance(source, PowerSource) and _reports_power(source)
    }
    return _Failures(
        frozen, by_power, _find_duplicates([source for source in counters if source.device.id not in frozen], timing)
    )


def _has_fast_counter(device: Device) -> bool:
    return device.method == "energy_counter" and device.provenance == "measured" and not device.min_interval_s


def _read_or_none(source: Source) -> float | None:
    try:
        return source.read()
    except Exception:  # noqa: BLE001 - third-party code may raise anything
        return None


def _reports_power(source: PowerSource) -> bool:
    try:
        return source.watts() > 0
    except Exception:  # noqa: BLE001 - as above
        return False


def _find_frozen(counters: Sequence[Source], timing: Timing) -> set[str]:
    """Return the ids of the counters that never changed."""
    first = [(source, _read_or_none(source)) for source in counters]
    waiting = [(source, value) for source, value in first if value is not None]
    start = timing.clock()
    frozen: set[str] = set()
    while waiting:
        timing.sleep(_STEP_S)
        waiting = [(source, value) for source, value in waiting if _read_or_none(source) == value]
        late = {source.device.id for source, _ in waiting if timing.clock() - start > _longest_ns(source.device)}
        waiting = [(source, value) for source, value in waiting if source.device.id not in late]
        frozen |= late
    return frozen


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
