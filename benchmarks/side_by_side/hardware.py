"""Simulated hardware for other processes: a driver that they find by their environment, and a live powercap tree.

As a program, `python -m side_by_side.hardware <folder>`, it updates the tree until its input ends.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import SquareCurve
from ml_energy_callbacks.testing.nvml import SimulatedDriver
from ml_energy_callbacks.testing.powercap import SimulatedPowercap

from .jobs import BENCHMARKS
from .tools import class_view


@contextmanager
def simulated_hardware(gpus: int = 1) -> Iterator[str]:
    """Show so many GPUs to processes that are started within the block; yield the root of the tree of one processor."""
    with tempfile.TemporaryDirectory() as folder:
        settings = SimulatedDriver(Path(folder)).environment(gpus=gpus)
        before = {name: os.environ.get(name) for name in settings}
        command = [sys.executable, "-m", "side_by_side.hardware", folder]
        with subprocess.Popen(command, cwd=BENCHMARKS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tree:
            try:
                root = tree.stdout.readline().strip()
                os.environ.update(settings)
                yield root
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})
                tree.stdin.close()


def main() -> None:
    """Create the tree, print its root, and keep it up to date."""
    tree = SimulatedPowercap(Path(sys.argv[1]) / "powercap", monotonic_clock)
    package = tree.package(SquareCurve(60, 240, period_s=0.5))
    tree.part(package, "dram", SquareCurve(10, 30, period_s=0.3))
    with tree.files.live(period_s=0.02):
        class_view(tree.files.root)
        print(tree.files.root, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
