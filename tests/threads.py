"""Waiting for what other threads do: they end with the test that starts them, as another test would see what they do."""

import threading
import time
from collections.abc import Callable, Iterable

_LONGEST_S = 10


def samplers() -> set[threading.Thread]:
    """Return the threads of all meters."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("ml-energy-sampler")}


def wait_for_the_end_of(threads: Iterable[threading.Thread]) -> None:
    """Wait for each thread to end."""
    for thread in threads:
        thread.join(_LONGEST_S)
        assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Wait for a condition, which is late on a busy machine."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
