"""A tree of files, such as Linux provides for hardware, whose contents follow the clock."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ml_energy_callbacks.clock import Clock
from ml_energy_callbacks.testing.clocks import ManualClock

_WIDTH = 24
"""Numbers are padded to this width, so that an open file never shows part of a number."""


class SimulatedFiles:
    """Files below a folder; some are fixed, others a function of time.

    With a :class:`ManualClock` they are updated at each of its moves; in real time, :meth:`live` updates them.
    """

    def __init__(self, root: Path, clock: Clock) -> None:
        """Create ``root`` with an empty tree."""
        self.root = root
        self.clock = clock
        root.mkdir(parents=True, exist_ok=True)
        self._contents: dict[Path, Callable[[int], float]] = {}
        if isinstance(clock, ManualClock):
            clock.follow(self.update)

    def fix(self, path: str, text: object) -> Path:
        """Write a file with fixed content."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n", encoding="ascii")
        return file

    def follow(self, path: str, number: Callable[[int], float]) -> Path:
        """Write a file that shows this function of the clock (ns) as a whole number."""
        file = self.fix(path, f"{round(number(self.clock())):<{_WIDTH}}")
        self._contents[file] = number
        return file

    def let_go(self, file: Path) -> None:
        """Stop updating a file, so that a test may change it."""
        self._contents.pop(file, None)

    def update(self) -> None:
        """Update each file in place."""
        now = self.clock()
        for file, number in list(self._contents.items()):
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(file, os.O_WRONLY)
                try:
                    os.pwrite(descriptor, f"{round(number(now)):<{_WIDTH}}\n".encode("ascii"), 0)
                finally:
                    os.close(descriptor)

    @contextlib.contextmanager
    def live(self, period_s: float = 0.002) -> Iterator[None]:
        """Update the files in real time, in a thread."""
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(period_s):
                self.update()

        thread = threading.Thread(target=run, name="simulated-files", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
