"""What the measurement itself costs: processor time, the longest time that it holds Python's interpreter lock, and memory.

Usage: python benchmarks/cost.py [--seconds 30] [--rounds 5]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.testing.nvml import SimulatedDriver
from ml_energy_callbacks.testing.scripted import SCRIPTED_DEVICE

SETTLE_S = 8.0
"""The columns of the fit are chosen after 6 s."""

BATCH_S, WAIT_S, SPREAD = 0.07, 0.03, 0.2


class Package:
    """A processor's counter, which refreshes every millisecond and is read from a file, as RAPL's are."""

    def __init__(self, number, file):
        """Open the file."""
        self.device = replace(SCRIPTED_DEVICE, id=f"rapl:package-{number}", kind="cpu", backend="rapl", latency_s=0.0005)
        self._file = os.open(file, os.O_RDONLY)

    def read(self):
        """Return the energy in J up to the last refresh."""
        os.pread(self._file, 64, 0)
        return time.perf_counter_ns() // 1_000_000 * 0.06

    def close(self):
        """Do nothing."""


class Packages:
    """The processors of a machine."""

    name = "rapl"

    def __init__(self, count):
        """Choose their number."""
        self._count = count

    def open(self):
        """Return them."""
        return [Package(number, __file__) for number in range(self._count)]


def spent():
    """Return the processor time of each thread of this process in s, by its name."""
    names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    found = {}
    for task in Path("/proc/self/task").iterdir():
        name = names.get(task.name, "others")
        found[name] = found.get(name, 0.0) + int((task / "schedstat").read_text().split()[0]) / NS_PER_S
    return found


def wakeups():
    """Return how often each thread of this process has waited, by its name."""
    names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    found = {}
    for task in Path("/proc/self/task").iterdir():
        line = next(x for x in (task / "status").read_text().splitlines() if x.startswith("voluntary"))
        found[names.get(task.name, "others")] = int(line.split()[1])
    return found


def child(gpus, packages, seconds):
    """Print the processor time of a meter's threads in a loop of ten batches a second, as a share of a core."""
    from ml_energy_callbacks.backends.nvml import NvmlBackend

    rng = random.Random(1)
    backends = [*([NvmlBackend()] if gpus else []), *([Packages(packages)] if packages else [])]
    with EnergyMeter(backends=backends, carbon_intensity=400, verbose=False) as meter, meter.stage("train"):
        begun = end = time.perf_counter()
        before = None
        while end < begun + SETTLE_S + seconds:
            if before is None and end > begun + SETTLE_S:
                before, woken, since = spent(), wakeups(), end
            time.sleep(WAIT_S * (1 + SPREAD * rng.uniform(-1, 1)))
            meter.batch_start()
            time.sleep(BATCH_S * (1 + SPREAD * rng.uniform(-1, 1)))
            meter.batch_end(4)
            end = time.perf_counter()
        passed = end - since
        shares = {name: (cpu - before.get(name, 0.0)) / passed for name, cpu in spent().items()}
        woken = {name: round((n - woken.get(name, 0)) / passed, 1) for name, n in wakeups().items()}
    print(json.dumps({"shares": shares, "wakeups": woken}))


def shares(gpus, packages, seconds, rounds):
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | SimulatedDriver(Path(folder)).environment(gpus=max(gpus, 1))
        command = [sys.executable, __file__, "--child", str(gpus), str(packages), "--seconds", str(seconds)]
        for _ in range(rounds):
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            yield json.loads(done.stdout)


def main():
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, type=int)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.seconds)
        return
    for gpus, packages in ((1, 2), (8, 2)):
        runs = list(shares(gpus, packages, options.seconds, options.rounds))
        ours = [sum(v for n, v in run["shares"].items() if n.startswith("ml-energy")) for run in runs]
        print(gpus, packages, [f"{100 * s:.2f}%" for s in ours], runs[0]["wakeups"], {n: f"{100*v:.2f}%" for n, v in runs[0]["shares"].items()})


if __name__ == "__main__":
    main()
