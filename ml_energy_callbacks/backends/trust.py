"""Whether the devices that were found can be trusted: each has to answer, each counter to move, and no two may be one."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, replace
from itertools import combinations

from ml_energy_callbacks.clock import NS_PER_S, REAL_TIME, Timing
from ml_energy_callbacks.deadline import LateError, close, in_background, within
from ml_energy_callbacks.readings import Device, PowerSource, SharedSource, Source

_LONGEST_NS = NS_PER_S
"""The slowest counters that are known refresh every 0.1 s; one that has not moved for so long stands still."""
_STEP_S = 0.005
_TWIN_CHECKS = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be trusted.

    Attributes:
        sources: These can; a GPU whose counter stands still is among them by its power.
        refused: Why the others cannot, in a sentence, by device id. They are closed, but for those that hang in their driver.
    """

    sources: Sequence[Source]
    refused: Mapping[str, str]


class _ByPower:
    """A source of joules whose counter stands still, by its power."""

    def __init__(self, source: PowerSource) -> None:
        self._source = source
        self.device: Device = replace(
            source.device,
            method="power_integration",
            wrap_joules=None,
            note=f"Its energy counter stands still, so that its power is integrated. {source.device.note or ''}".strip(),
        )

    def read(self) -> float:
        """Return the power in W."""
        return self._source.watts()

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def process_share(self, pids: Collection[int]) -> float | None:
        """Return what the source says; None where it does not know."""
        return self._source.process_share(pids) if isinstance(self._source, SharedSource) else None


def verify(sources: Sequence[Source], timing: Timing = REAL_TIME) -> Verdict:
    """Watch all counters until each has moved, for a second at most, and sort out those that cannot be trusted.

    A counter that cannot be read now is neither trusted nor refused: it may come back. One that does not even say so is
    refused, for whoever asks it waits for ever, and what shares its driver with it.

    Args:
        sources: The open devices.
        timing: Clock, and how long devices are waited for.
    """
    hanging = _hanging([source for source in sources if not source.device.min_interval_s], timing.answer_s)
    refused = {
        name: f"{name} does not answer, so that it is not counted: see what `sudo dmesg` says of its driver."
        for name in hanging
    }
    answering = [source for source in sources if source.device.id not in hanging]
    counters = [source for source in answering if _counts(source.device)]
    try:
        doubts = within(timing.check_s, in_background(lambda: _doubt(counters, timing)))
    except LateError:  # it answered once and hangs now: a gap of the run
        return Verdict(answering, refused)
    kept: list[Source] = []
    for source in answering:
        name = source.device.id
        if name in doubts.by_power and isinstance(source, PowerSource):
            kept.append(_ByPower(source))
        elif name in doubts.still:
            refused[name] = f"The energy counter of {name} stands still; it is not counted."
        elif name in doubts.twins:
            refused[name] = f"{name} shows the counter of {doubts.twins[name]} once more; it is not counted."
        else:
            kept.append(source)
    close(source for source in answering if source.device.id in refused)
    return Verdict(kept, refused)


def _hanging(sources: Sequence[Source], seconds: float) -> set[str]:
    """Return the ids of the devices that do not answer in so many seconds, be it with an error."""
    answers = {in_background(source.read): source.device.id for source in sources}
    return {answers[late] for late in wait(answers, timeout=seconds).not_done}


@dataclass(frozen=True, slots=True)
class _Doubts:
    """Which counters cannot be believed, by the ids of their devices.

    Attributes:
        still: Those that stand still.
        by_power: Those of them whose device tells its power.
        twins: Those that show another's, with the other's id.
    """

    still: Collection[str]
    by_power: Collection[str]
    twins: Mapping[str, str]


def _doubt(counters: Sequence[Source], timing: Timing) -> _Doubts:
    still = _standing_still(counters, timing)
    by_power = {
        source.device.id
        for source in counters
        if source.device.id in still and isinstance(source, PowerSource) and _tells_power(source)
    }
    return _Doubts(still, by_power, _twins([source for source in counters if source.device.id not in still], timing))


def _counts(device: Device) -> bool:
    return device.method == "energy_counter" and device.provenance == "measured" and not device.min_interval_s


def _value(source: Source) -> float | None:
    try:
        return source.read()
    except Exception:  # noqa: BLE001 - a third party's backend may raise anything
        return None


def _tells_power(source: PowerSource) -> bool:
    try:
        return source.watts() > 0
    except Exception:  # noqa: BLE001 - as above
        return False


def _standing_still(counters: Sequence[Source], timing: Timing) -> set[str]:
    """Return the ids of the counters that never moved."""
    first = [(source, _value(source)) for source in counters]
    waiting = [(source, value) for source, value in first if value is not None]
    start = timing.clock()
    still: set[str] = set()
    while waiting:
        timing.sleep(_STEP_S)
        waiting = [(source, value) for source, value in waiting if _value(source) == value]
        late = {source.device.id for source, _ in waiting if timing.clock() - start > _longest_ns(source.device)}
        waiting = [(source, value) for source, value in waiting if source.device.id not in late]
        still |= late
    return still


def _longest_ns(device: Device) -> int:
    return max(_LONGEST_NS, round(1.5 * (device.update_period_s or 0.0) * NS_PER_S))


def _twins(counters: Sequence[Source], timing: Timing) -> dict[str, str]:
    """Return the id of the other by the id of a counter that shows nothing of its own."""
    twins: dict[str, str] = {}
    for one, other in combinations(counters, 2):
        if one.device.kind == other.device.kind and one.device.id not in twins and _same(one, other, timing):
            twins.setdefault(other.device.id, one.device.id)
    return twins


def _same(one: Source, other: Source, timing: Timing) -> bool:
    """Whether what one shows lies between two looks at the other, again and again."""
    for _ in range(_TWIN_CHECKS):
        before, value, after = _value(one), _value(other), _value(one)
        if before is None or value is None or after is None or not before <= value <= after:
            return False
        # At the next refresh, for within one it would be the same coincidence once more.
        end = timing.clock() + _longest_ns(one.device)
        while _value(one) == after and timing.clock() < end:
            timing.sleep(_STEP_S)
    return True
