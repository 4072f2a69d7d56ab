"""Whether the counters that were found can be trusted: each has to move, and no two may be one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from time import sleep

from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.readings import Device, PowerSource, SharedSource, Source, close

_LONGEST_NS = NS_PER_S
"""The slowest counters that are known refresh every 0.1 s; one that has not moved for so long stands still."""
_STEP_S = 0.005
_TWIN_CHECKS = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be trusted.

    Attributes:
        sources: These can; a GPU whose counter stands still is among them by its power.
        refused: Why the others cannot, in a sentence, by device id. They are closed.
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


def verify(sources: Sequence[Source], clock: Clock = monotonic_clock) -> Verdict:
    """Watch all counters until each has moved, for a second at most, and sort out those that cannot be trusted.

    A counter that cannot be read now is neither trusted nor refused: it may come back.

    Args:
        sources: The open devices.
        clock: Monotonic clock.
    """
    counters = [source for source in sources if _counts(source.device)]
    still = _standing_still(counters, clock)
    twins = _twins([source for source in counters if source.device.id not in still])
    refused: dict[str, str] = {}
    kept: list[Source] = []
    for source in sources:
        name = source.device.id
        if name in still and isinstance(source, PowerSource) and _tells_power(source):
            kept.append(_ByPower(source))
        elif name in still:
            refused[name] = f"The energy counter of {name} stands still; it is not counted."
        elif name in twins:
            refused[name] = f"{name} shows the counter of {twins[name]} once more; it is not counted."
        else:
            kept.append(source)
        if name in refused:
            close(source)
    return Verdict(kept, refused)


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


def _standing_still(counters: Sequence[Source], clock: Clock) -> set[str]:
    """Return the ids of the counters that never moved."""
    first = [(source, _value(source)) for source in counters]
    waiting = [(source, value) for source, value in first if value is not None]
    start = clock()
    still: set[str] = set()
    while waiting:
        sleep(_STEP_S)
        waiting = [(source, value) for source, value in waiting if _value(source) == value]
        late = {source.device.id for source, _ in waiting if clock() - start > _longest_ns(source.device)}
        waiting = [(source, value) for source, value in waiting if source.device.id not in late]
        still |= late
    return still


def _longest_ns(device: Device) -> int:
    return max(_LONGEST_NS, round(1.5 * (device.update_period_s or 0.0) * NS_PER_S))


def _twins(counters: Sequence[Source]) -> dict[str, str]:
    """Return the id of the other by the id of a counter that shows nothing of its own."""
    twins: dict[str, str] = {}
    for one, other in combinations(counters, 2):
        if one.device.kind == other.device.kind and one.device.id not in twins and _same(one, other):
            twins.setdefault(other.device.id, one.device.id)
    return twins


def _same(one: Source, other: Source) -> bool:
    """Whether what one shows lies between two looks at the other, again and again."""
    for _ in range(_TWIN_CHECKS):
        before, value, after = _value(one), _value(other), _value(one)
        if before is None or value is None or after is None or not before <= value <= after:
            return False
        # At the next refresh, for within one it would be the same coincidence once more.
        end = monotonic_clock() + _longest_ns(one.device)
        while _value(one) == after and monotonic_clock() < end:
            sleep(_STEP_S)
    return True
