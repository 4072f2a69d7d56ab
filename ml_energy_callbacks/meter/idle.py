"""The idle power of devices."""

from collections.abc import Callable, Mapping

from ml_energy_callbacks.attribution.ledger import Ledger
from ml_energy_callbacks.attribution.timeline import Timeline
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.metrics import OUTSIDE

_LONGEST_SETTLING_NS = 3 * NS_PER_S
"""A device that has not been read by then has no idle power."""

_SETTLED_S = 0.2
"""By then each quick device has been read and, as a rule, has refreshed."""


def measure_idle(
    timeline: Timeline, ledgers: Mapping[str, Ledger], seconds: float, sleep: Callable[[float], None]
) -> dict[str, float]:
    """Return the idle power of each device in W by its id; a device some of whose reads failed is absent.

    Call it while the timeline is outside the run; it takes a little longer than ``seconds``.

    Args:
        timeline: The time outside the run.
        ledgers: The devices' ledgers by their ids, which are fed meanwhile.
        seconds: For how long to measure.
        sleep: Waits for so many seconds.
    """
    latest = timeline.clock() + _LONGEST_SETTLING_NS
    sleep(_SETTLED_S)
    while any(ledger.published is None for ledger in ledgers.values()) and timeline.clock() < latest:
        sleep(_SETTLED_S)
    begun, before = _outside(timeline, ledgers)
    sleep(seconds)
    ended, after = _outside(timeline, ledgers)
    return {
        name: (after[name][0] - joules) / (ended - begun) * NS_PER_S
        for name, (joules, missing) in before.items()
        if after[name][1] == missing
    }


def _outside(timeline: Timeline, ledgers: Mapping[str, Ledger]) -> tuple[int, dict[str, tuple[float, float]]]:
    """Return the clock in ns, and each device's energy outside the run so far in J, and for how long it was missing."""
    look = timeline.look()
    known = [(name, ledger, ledger.published) for name, ledger in ledgers.items()]
    return look.now, {
        name: (published.at(look.now, look.totals)[OUTSIDE], ledger.finder.unread_at(look.now))
        for name, ledger, published in known
        if published is not None
    }
