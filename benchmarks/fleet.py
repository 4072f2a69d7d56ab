"""Measure the time and memory of `ml-energy report` for many runs.

It writes run records of typical size (three stages, four devices, 30 epochs) to a temporary directory, one per run. The command
then groups them by month and model and writes their rows as CSV and Parquet, in a separate process. The files have just been
written, so they are in the cache of a local disk. Usage: `python benchmarks/fleet.py`, or with `--runs 1000`; `--json` prints
JSON.
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from msgspec.structs import replace

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.record.schema import EpochRecord
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter

COMMAND = [sys.executable, "-c", "from ml_energy_callbacks.cli import main; main()", "report"]
DEVICES = 4
EPOCHS = 30
KIB, MB = 1024, 1e6


def a_record():
    """Return the record of a short run on simulated devices."""
    counters = [ScriptedCounter(PowerCurve(monotonic_clock, 300.0), monotonic_clock, period_s=0.02) for _ in range(DEVICES)]
    for i, counter in enumerate(counters):
        counter.device = dataclasses.replace(counter.device, id=f"scripted:{i}")
    with EnergyMeter(backends=[ScriptedBackend(counters)], location="FRA", electricity_price=0.3, verbose=False) as meter:
        for stage in ("train", "validate", "predict"):
            with meter.stage(stage):
                for _ in range(5):
                    with meter.batch(samples=100):
                        time.sleep(0.02)
    record = meter.record
    epoch = EpochRecord(stage="train", index=0, joules=1234.5678, seconds=12.345678, samples=1000, co2e_grams=0.123456)
    record.epochs = [replace(epoch, index=i) for i in range(EPOCHS)]
    return record


def write_records(folder: Path, runs: int):
    """Write the records of this number of runs, each to its own directory; return their size in bytes."""
    record, size = a_record(), 0
    run = record.run
    for i in range(runs):
        record.run = replace(
            run,
            id=f"{i:032x}",
            started_at=f"2026-{i % 12 + 1:02d}-15T12:00:00+01:00",
            hostnames=[f"node{i % 64}"],
            model=f"Net{i % 5}",
            tags={"team": f"team{i % 7}"},
        )
        file = folder / f"{i // 100}" / f"{i}" / "energy.json"
        file.parent.mkdir(parents=True)
        size += file.write_bytes(dump_json(record).encode())
    return size


def measure(runs: int):
    """Return the time in s and peak memory in bytes of the command for this number of runs, and the records' size in bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "runs").mkdir()
        size = write_records(folder / "runs", runs)
        options = ["--by", "month", "--by", "model", "--csv", folder / "runs.csv", "--parquet", folder / "runs.parquet"]
        began = time.perf_counter()
        done = subprocess.run([*COMMAND, folder / "runs", *options, "--json"], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
    shown = json.loads(done.stdout)["total"]["runs"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * KIB
    return {"runs": shown, "seconds": seconds, "peak_bytes": peak, "records_bytes": size}


def main():
    """Measure, and print the result."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=10_000)
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    found = measure(chosen.runs)
    if chosen.json:
        print(json.dumps(found))
        return
    print(f"{found['runs']:,} runs, {found['records_bytes'] / MB:,.0f} MB of records: ", end="")
    print(f"{found['seconds']:.1f} s, {found['peak_bytes'] / MB:,.0f} MB of memory at most")
    print(f"Python {platform.python_version()}, duckdb {version('duckdb')}, {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
