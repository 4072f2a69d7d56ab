"""How late the threads of a test are, where others use the machine, too."""

import threading
from time import perf_counter, sleep
from typing import Self

_STEP_S = 0.002


class Lateness:
    """The longest that a thread of this process overslept within a `with` block, in s: no read is stamped more exactly.

    On an idle machine it is below a millisecond; a tolerance grows by it, not by what a busy machine might need.
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
