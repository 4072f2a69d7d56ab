"""The monotonic clock, waiting and time limits, replaceable in tests.

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
    """The clocks of a meter, its waiting, and its time limits for drivers.

    Attributes:
        clock: Monotonic clock in ns.
        sleep: Waits for a number of seconds of that clock.
        now: Time of day, with its offset from UTC.
        open_s: Time limit in s for a backend to open its devices. NVIDIA's driver takes seconds for each GPU that has not
            been used since the driver was loaded.
        answer_s: Time limit in s of a device's first answer; a device that takes longer may never answer.
        check_s: Time limit in s of the checks of all devices together, which take some seconds unless a driver hangs.
    """

    clock: Clock = monotonic_clock
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = utc_now
    open_s: float = 30.0
    answer_s: float = 2.0
    check_s: float = 20.0


REAL_TIME = Timing()
