"""Threads that a test starts end with it: another test in the same process would see what they do."""

import threading
from collections.abc import Iterable

_LONGEST_S = 10


def wait_for_the_end_of(threads: Iterable[threading.Thread]) -> None:
    """Wait for each thread to end."""
    for thread in threads:
        thread.join(_LONGEST_S)
        assert not thread.is_alive()
