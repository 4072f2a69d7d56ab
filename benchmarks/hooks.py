"""Time of a callback's two hooks of a batch, as called by the loop, and of whole calls; shared by the benchmarks."""

import statistics
import time

ROUNDS = 9
BATCHES = 2000


def timed(callback, begin, end) -> list[int]:
    """Make a callback time these two of its hooks; return the list to which the time of each batch is appended, in ns."""
    begin_hook, end_hook = getattr(callback, begin), getattr(callback, end)
    times = []

    def timed_begin(*args, **kwargs):
        begun = time.perf_counter_ns()
        begin_hook(*args, **kwargs)
        times.append(time.perf_counter_ns() - begun)

    def timed_end(*args, **kwargs):
        begun = time.perf_counter_ns()
        end_hook(*args, **kwargs)
        times[-1] += time.perf_counter_ns() - begun

    setattr(callback, begin, timed_begin)
    setattr(callback, end, timed_end)
    return times


class Methods:
    """Times what is put around methods of objects, such as the marks of a batch's parts: the whole less the method itself.

    Attributes:
        spent: Time of that since it was last set to 0, in ns.
    """

    def __init__(self, names):
        self.names = names
        self.spent = 0

    def time(self, sign, *owners):
        """Time the methods that these objects have now: with -1 the methods themselves, with +1 all that is around them."""
        for owner, name in ((owner, name) for owner in owners for name in self.names if hasattr(owner, name)):
            vars(owner)[name] = self._timed(getattr(owner, name), sign)

    def _timed(self, method, sign):
        def call(*args, **kwargs):
            begun = time.perf_counter_ns()
            try:
                return method(*args, **kwargs)
            finally:
                self.spent += sign * (time.perf_counter_ns() - begun)

        return call

    def wrap(self, *owners):
        """Put functions that only call the methods around them, as those of an empty callback."""
        for owner, name in ((owner, name) for owner in owners for name in self.names if hasattr(owner, name)):
            vars(owner)[name] = self._passing(getattr(owner, name))

    @staticmethod
    def _passing(method):
        def call(*args, **kwargs):
            return method(*args, **kwargs)

        return call


def above_empty(run, empty, ours) -> list[float]:
    """Return the median time of our hooks in excess of empty ones in µs, for each of the interleaved rounds.

    Args:
        run: Runs a loop with a callback, and returns the hook times of its batches in ns.
        empty: Makes a callback that does nothing.
        ours: Makes the callback that measures.
    """
    medians = [(statistics.median(run(empty())), statistics.median(run(ours()))) for _ in range(ROUNDS)]
    return [(b - a) / 1000 for a, b in medians]


def calls_above_empty(call, empty, ours) -> list[float]:
    """Return the time of a short call in excess of one with an empty callback in ms, for each of the interleaved rounds.

    Each callback is used for all calls. The first one, in which ours looks for the devices, is not among them.

    Args:
        call: Runs a short loop with a callback.
        empty: The callback that does nothing.
        ours: The callback that measures.
    """

    def seconds(callback):
        begun = time.perf_counter()
        call(callback)
        return time.perf_counter() - begun

    rounds = [(seconds(empty), seconds(ours)) for _ in range(ROUNDS + 1)]
    return [(b - a) * 1000 for a, b in rounds[1:]]
