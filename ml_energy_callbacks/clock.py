"""The monotonic clock, replaceable in tests.

The clock is any callable without arguments that returns nanoseconds as an int and never runs backwards.
"""

from collections.abc import Callable
from time import perf_counter_ns

Clock = Callable[[], int]

monotonic_clock: Clock = perf_counter_ns

NS_PER_S = 1_000_000_000
