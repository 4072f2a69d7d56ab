"""What the measurement itself takes: processor time, memory, and the longest pieces of its work.

During a piece of work, no other Python thread runs.

Usage: python benchmarks/cost.py [--seconds 30] [--rounds 5]
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.attribution.ledger import Ledger
from ml_energy_callbacks.attribution.timeline import Timeline
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.meter.sampler import Poller
from ml_energy_callbacks.record.chain import Seal, make_chunk
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter
from ml_energy_callbacks.testing.nvml import SimulatedDriver
from ml_energy_callbacks.testing.replaying import replay_file
from ml_energy_callbacks.testing.scripted import SCRIPTED_DEVICE

MACHINES = {"1 GPU, 2 processors": (1, 2, 0.5), "8 GPUs": (8, 0, 1.0)}
"""GPUs and processors of a machine, and the share of a core in percent that measuring it may take."""

SETTLE_S = 75.0
"""After a minute, processors are read half as often, and few fits are left to be made."""

WAIT_S, COMPUTE_S, SPREAD = 0.03, 0.07, 0.2
WATTS = 90.0, 400.0
SIMULATED_S = 120.0
THREADS = "ml-energy"


class Package:
    """A processor's counter that refreshes every millisecond and is read from a file, as RAPL's are."""

    def __init__(self, number):
        """Open a file."""
        self.device = replace(SCRIPTED_DEVICE, id=f"scripted:package-{number}", kind="cpu")
        self._file = os.open(__file__, os.O_RDONLY)

    def read(self):
        """Return the energy in J up to the last refresh."""
        os.pread(self._file, 64, 0)
        return time.perf_counter_ns() // 1_000_000 * 0.06

    def close(self):
        """Close the file."""
        os.close(self._file)


class Packages:
    """The processors of a machine."""

    name = "scripted"

    def __init__(self, count):
        """Choose their number."""
        self._count = count

    def open(self):
        """Return them."""
        return [Package(number) for number in range(self._count)]


def threads() -> dict[str, tuple[float, int]]:
    """Return the processor time of each of our threads in s, and how often it has waited, by its name."""
    found = {}
    for thread in threading.enumerate():
        task = Path(f"/proc/self/task/{thread.native_id}")
        if thread.name.startswith(THREADS):
            waits = next(line for line in (task / "status").read_text().splitlines() if line.startswith("voluntary"))
            found[thread.name] = int((task / "schedstat").read_text().split()[0]) / NS_PER_S, int(waits.split()[1])
    return found


def vary(rng, seconds) -> float:
    """Return a length about a median."""
    return seconds * (1 + SPREAD * rng.uniform(-1, 1))


def live(gpus, packages, seconds) -> None:
    """Print what our threads take beside a loop of ten batches a second that sleeps."""
    rng = random.Random(1)  # noqa: S311 - lengths of batches, not secrets
    backends = [*([NvmlBackend()] if gpus else []), *([Packages(packages)] if packages else [])]
    with EnergyMeter(backends=backends, carbon_intensity=400, verbose=False) as meter, meter.stage("train"):
        begun = now = time.perf_counter()
        since, before = begun, {}
        while now < begun + SETTLE_S + seconds:
            if not before and now > begun + SETTLE_S:
                since, before = now, threads()
            time.sleep(vary(rng, WAIT_S))
            meter.batch_start()
            time.sleep(vary(rng, COMPUTE_S))
            meter.batch_end(4)
            now = time.perf_counter()
        after = threads()
        _ = meter.record  # solves what is due
        reporting = time.thread_time()
        _ = meter.record
        reporting = time.thread_time() - reporting
    passed = now - since
    share = sum(cpu - before[name][0] for name, (cpu, _) in after.items()) / passed
    waits = sum(count - before[name][1] for name, (_, count) in after.items()) / passed
    print(json.dumps({"share": share, "waits": waits, "record": reporting}))


def live_runs(gpus, packages, seconds, rounds) -> list[dict[str, float]]:
    """Return what runs in processes of their own print."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | SimulatedDriver(Path(folder)).environment(gpus=max(gpus, 1))
        command = [sys.executable, __file__, "--live", str(gpus), str(packages), "--seconds", str(seconds)]
        runs = [subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True) for _ in range(rounds)]
    return [json.loads(run.stdout) for run in runs]


class TimedLock:
    """Keeps the longest processor time for which it was held, in s: a piece of a poll's work, for which a loop may wait."""

    longest = 0.0

    def __enter__(self):
        """Begin to measure."""
        self._begun = time.thread_time()

    def __exit__(self, *_):
        """End."""
        self.longest = max(self.longest, time.thread_time() - self._begun)


def timed(work) -> float:
    """Return the processor time that a function takes in this thread, in s."""
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def simulated(gpus, packages) -> dict[str, float]:
    """Return what the work of a simulated run takes, in s.

    These are the longest piece of a poll, step of a fit, and fit with all its steps, all work after the first minute, and in
    bytes the memory that is held for each device at the end, if it is traced.
    """
    rng, clock = random.Random(1), ManualClock()  # noqa: S311 - as above
    timeline, curve = Timeline(clock), PowerCurve(clock, WATTS[0])
    buckets = [timeline.add_bucket(1) for _ in WATTS]
    periods = [0.1] * gpus + [0.001] * packages
    devices = [replace(SCRIPTED_DEVICE, id=f"scripted:{number}") for number in range(len(periods))]
    counters = [
        ScriptedCounter(curve, clock, period_s=period, offset_s=rng.random() * period, device=device)
        for period, device in zip(periods, devices, strict=True)
    ]
    ledgers = [Ledger(device, 0.05) for device in devices]
    lock = TimedLock()
    poller = Poller(list(zip(counters, ledgers, strict=True)), timeline, 0.05, lock)
    found = {"step": 0.0, "fit": 0.0, "all": 0.0}
    end, review = clock.now_ns + round((SETTLE_S + SIMULATED_S) * NS_PER_S), clock.now_ns
    while clock.now_ns < end:
        for bucket, watts, seconds in zip(buckets, WATTS, (WAIT_S, COMPUTE_S), strict=True):
            timeline.switch(bucket)
            curve.set(watts)
            until = clock.now_ns + round(vary(rng, seconds) * NS_PER_S)
            while poller.next_poll < until:
                clock.now_ns = max(clock.now_ns, poller.next_poll)
                found["all"] += timed(poller.poll)
            clock.now_ns = until
        if clock.now_ns < end - SIMULATED_S * NS_PER_S:
            found["all"] = 0.0
        if clock.now_ns > review:
            review = clock.now_ns + 5 * NS_PER_S
            for ledger in ledgers:
                solve(ledger, found)
    found["poll"] = lock.longest
    if tracemalloc.is_tracing():
        ours = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(inclusive=True, filename_pattern="*/attribution/*")]
        )
        found["bytes"] = sum(each.size for each in ours.statistics("filename")) / len(devices)
    return found


def traced(gpus, packages) -> float:
    """Return the memory that is held for each device at the end of a simulated run of one stage, in bytes."""
    tracemalloc.start()
    held = simulated(gpus, packages)["bytes"]
    tracemalloc.stop()
    return held


def solve(ledger, found) -> None:
    """Solve the fits of a device that are due, and keep the longest times."""
    begun = time.thread_time()
    tasks = ledger.fit_tasks()
    pieces = [time.thread_time() - begun]
    for task in tasks:
        steps, going = task.steps(), True
        while going:
            begun = time.thread_time()
            going = next(steps, True) is None
            pieces.append(time.thread_time() - begun)
        ledger.accept([task])
    found["step"] = max(found["step"], *pieces)
    found["fit"] = max(found["fit"], sum(pieces))
    found["all"] += sum(pieces)


def recorded() -> tuple[float, float, float]:
    """Return the size of a recorded minute of one device in kB, that of its raw readings, and the time of its replay in s."""
    rng, clock = random.Random(1), ManualClock()  # noqa: S311 - as above
    curve = PowerCurve(clock, WATTS[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "raw.jsonl")
        backend = ScriptedBackend([ScriptedCounter(curve, clock)])
        with SteppedMeter(clock, backends=[backend], recording=path, verbose=False) as meter, meter.stage("train"):
            for _ in range(600):
                curve.set(WATTS[0])
                clock.advance(vary(rng, WAIT_S))
                with meter.batch(samples=4):
                    curve.set(WATTS[1])
                    clock.advance(vary(rng, COMPUTE_S))
        begun = time.perf_counter()
        replay_file(path)
        replayed = time.perf_counter() - begun
        lines, seal = path.read_bytes(), Seal()
        for begin in range(0, len(lines), len(lines) // 6 + 1):  # a chunk of ten seconds each
            _, seal = make_chunk(seal, lines[begin : begin + len(lines) // 6 + 1])
        return len(lines) / 1000, seal.size / 1000, replayed


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the live runs, once they have settled")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each machine")
    parser.add_argument("--live", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.live:
        live(*options.live, options.seconds)
        return
    table = Table("machine", "what", "median", "range", "target")

    def add(machine, what, unit, values, target) -> None:
        table.add_row(machine, what, f"{median(values):.2f} {unit}", f"{min(values):.2f} to {max(values):.2f}", target)

    gc.disable()  # a collection, which any thread of a program may have to do, would be taken for a piece of work
    for machine, (gpus, packages, most) in MACHINES.items():
        pieces = [simulated(gpus, packages) for _ in range(options.rounds)]
        for name, what in (("poll", "longest piece of a poll"), ("step", "longest step of a fit")):
            add(machine, what, "ms", [each[name] * 1000 for each in pieces], "2 ms")
        add(machine, "longest fit, all its steps", "ms", [each["fit"] * 1000 for each in pieces], "20 ms")
        add(machine, "polls and fits, share of a core", "%", [each["all"] / SIMULATED_S * 100 for each in pieces], f"{most} %")
        add(machine, "memory for a stage and device", "MB", [traced(gpus, packages) / 1e6], "1 MB")
        runs = live_runs(gpus, packages, options.seconds, options.rounds)
        add(machine, "record without fits", "ms", [run["record"] * 1000 for run in runs], "")
        add(machine, "all our threads, share of a core", "%", [run["share"] * 100 for run in runs], "")
        add(machine, "wake-ups of our threads", "/s", [run["waits"] for run in runs], "")
    size, packed, replayed = zip(*(recorded() for _ in range(options.rounds)), strict=True)
    add("1 GPU", "recording of a minute", "kB", size, "")
    add("1 GPU", "raw readings of a minute", "kB", packed, "")
    add("1 GPU", "replay of a minute", "s", replayed, "")
    console = Console()
    console.print(table)
    console.print(
        f"Processor time (user and system) at ten batches a second, {SETTLE_S:g} s after the start. Polls and fits are those "
        f"of a simulated run of {SIMULATED_S:g} s; our threads are those of live runs of {options.seconds:g} s."
    )


if __name__ == "__main__":
    main()
