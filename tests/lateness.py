"""Measure how late the threads of a test are on a machine that others also use."""

import threading
from time import perf_counter, sleep
from typing import Self

_STEP_S = 0.002


class Lateness:
    """The longest time that a thread of this process overslept within a `with` block, in s: the error of the reads' timestamps.

    On an idle machine it is below a millisecond. Tolerances increase by it, rather than by a fixed margin for busy machines.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            begun = perf_counter()
            sleep(_STEP_S)
            self.seconds = max(self.seconds, perf_counter() - begun - _STEP_S)
