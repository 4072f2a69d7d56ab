"""Measure whether sampling slows a training loop, by comparing blocks with and without the meter.

Short blocks of a CPU-bound training loop run in random order: A and A' without a meter, B with a meter that reads the four
devices of a server with two processors at the default interval, after some blocks of warm-up. The devices are files of a
simulated powercap tree, which a separate process updates all the time. A'/A shows the noise. Run it on an idle machine:
`python benchmarks/sampling.py`, or `python benchmarks/sampling.py --rounds 5 --block 0.3` for a short run.
"""

import argparse
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.backends.rapl import RaplBackend
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import SquareCurve
from ml_energy_callbacks.testing.powercap import SimulatedPowercap

PACKAGES = 2
WARM_UP = 6
"""Blocks before the one that is timed: in its first seconds a meter learns the refreshes and the phases' powers."""
RESAMPLES = 10_000
BLOCKS = ("A", "A'", "B")
WIDEST_NOISE = 0.05
"""If the interval of the noise is wider, it could hide a relevant overhead, and no conclusion is printed."""


class Network:
    """Two layers, trained in numpy: some Python and some arithmetic in each step, as in a small model on a CPU."""

    def __init__(self, seed=0):
        draw = np.random.default_rng(seed)
        self.inputs = draw.standard_normal((64, 128), dtype=np.float32)
        self.targets = draw.standard_normal((64, 10), dtype=np.float32)
        self.hidden = draw.standard_normal((128, 256), dtype=np.float32) * 0.05
        self.output = draw.standard_normal((256, 10), dtype=np.float32) * 0.05

    def step(self):
        """Train on one batch."""
        active = np.maximum(self.inputs @ self.hidden, 0)
        error = (active @ self.output - self.targets) / len(self.inputs)
        back = (error @ self.output.T) * (active > 0)
        self.output -= 0.01 * (active.T @ error)
        self.hidden -= 0.01 * (self.inputs.T @ back)


def show_hardware(root: Path, ready: Event, stop: Event) -> None:
    """Keep a tree of packages and their memory up to date until `stop` is set."""
    tree = SimulatedPowercap(root, monotonic_clock)
    for number in range(PACKAGES):
        package = tree.package(SquareCurve(60, 240, period_s=0.5), number=number)
        tree.part(package, "dram", SquareCurve(10, 30, period_s=0.3))
    with tree.files.live(period_s=0.01):
        ready.set()
        stop.wait()


def train(steps) -> float:
    """Return the time of this number of steps in s."""
    network = Network()
    begun = time.perf_counter()
    for _ in range(steps):
        network.step()
    return time.perf_counter() - begun


def train_measured(steps, root) -> float:
    """Return the time of this number of steps in s with a running meter, after some blocks of warm-up."""
    meter = EnergyMeter(backends=[RaplBackend(root)], carbon_intensity=1, verbose=False)
    with meter, meter.stage("train"):
        train(WARM_UP * steps)
        seconds = train(steps)
    if len(meter.record.devices) != 2 * PACKAGES or not all(device.joules for device in meter.record.devices):
        msg = "The meter did not measure all devices; the comparison would be meaningless."
        raise RuntimeError(msg)
    return seconds


def blocks(rounds, steps, root) -> dict[str, list[float]]:
    """Return the time of each block in s, by kind."""
    times = {kind: [] for kind in BLOCKS}
    for _ in range(rounds):
        for kind in random.sample(BLOCKS, len(BLOCKS)):
            times[kind].append(train_measured(steps, root) if kind == "B" else train(steps))
    return times


def ratio(times, base) -> tuple[float, float, float]:
    """Return the median ratio of the times of a round, and its 95 % interval by resampling the rounds.

    A machine that slows down for a while slows down all runs of a round.
    """
    ratios = np.array(times) / np.array(base)
    rounds = np.random.default_rng(0).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[rounds], axis=1), (2.5, 97.5))
    return float(np.median(ratios)), float(low), float(high)


def verdict(noise, metered) -> str:
    """Return the conclusion from the two ratios and their intervals."""
    if noise[2] - noise[1] > WIDEST_NOISE:
        return "The machine is too noisy at present to decide."
    return (
        "The overhead of the meter exceeds the noise."
        if metered[1] > noise[2]
        else "The overhead of the meter is within the noise."
    )


def steps_for(seconds) -> int:
    """Return the number of steps that take about this time in s."""
    train(20)
    return max(1, round(seconds / (train(100) / 100)))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Measure whether sampling slows a training loop.")
    parser.add_argument("--rounds", type=int, default=40, help="blocks of each kind")
    parser.add_argument("--block", type=float, default=1.0, help="length of a block in s")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "powercap"
        hardware = context.Process(target=show_hardware, args=(root, ready, stop))
        hardware.start()
        try:
            if not ready.wait(60):
                msg = "The simulated hardware did not start."
                raise RuntimeError(msg)
            steps = steps_for(options.block)
            times = blocks(options.rounds, steps, root)
        finally:
            stop.set()
            hardware.join()
    noise, metered = ratio(times["A'"], times["A"]), ratio(times["B"], times["A"])
    table = Table("what", "ratio of medians", "95 % interval")
    table.add_row("A' / A: no meter in either", f"{noise[0]:.4f}", f"{noise[1]:.4f} to {noise[2]:.4f}")
    table.add_row("B / A: with a meter, compared with none", f"{metered[0]:.4f}", f"{metered[1]:.4f} to {metered[2]:.4f}")
    console = Console()
    console.print(table)
    console.print(verdict(noise, metered))
    step_us = statistics.median(times["A"]) / steps * 1e6
    console.print(
        f"Python {platform.python_version()}, numpy {np.__version__}, {os.cpu_count()} CPUs; {2 * PACKAGES} devices; "
        f"{options.rounds} rounds of blocks of {steps} steps of {step_us:.0f} µs."
    )


if __name__ == "__main__":
    main()
