"""The monotonic clock and everything else that takes time, replaceable in tests.

The clock is any callable without arguments that returns nanoseconds as an int and never runs backwards.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

Clock = Callable[[], int]

monotonic_clock: Clock = time.perf_counter_ns

NS_PER_S = 1_000_000_000


def utc_now() -> datetime:
    """Return the time of day."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Timing:
    """The clocks that a meter uses, how it waits, and how long it waits for a driver.

    Attributes:
        clock: Monotonic clock in ns.
        sleep: Waits for so many seconds of that clock.
        now: Time of day, with its offset from UTC.
        open_s: Longest time in s in which a backend may open its devices. NVIDIA's driver takes seconds for each GPU that
            nothing has used since it was loaded.
        answer_s: Longest time in s for a device's first answer; one that takes longer may never give one.
        check_s: Longest time in s for the checks of all devices together: some seconds, unless a driver hangs in the middle.
    """

    clock: Clock = monotonic_clock
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = utc_now
    open_s: float = 30.0
    answer_s: float = 2.0
    check_s: float = 20.0


REAL_TIME = Timing()
