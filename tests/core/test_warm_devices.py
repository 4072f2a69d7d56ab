"""Devices stay open between the loops of one meter, and no longer than somebody has it."""

import gc
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ml_energy_callbacks import EnergyMeter, LoopDescription, load_record
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError, ReadError
from ml_energy_callbacks.testing import PowerCurve, ScriptedCounter


class Counting:
    """A backend of one counter, which notes each opening and each close."""

    name = "scripted"

    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.silent = False

    def open(self) -> list[Any]:
        self.opened += 1
        backend = self

        class Noting(ScriptedCounter):
            over = False

            def read(self) -> float:
                if backend.silent or self.over:
                    raise ReadError
                return super().read()

            def close(self) -> None:
                backend.closed += 1
                self.over = True
                super().close()

        return [Noting(PowerCurve(monotonic_clock, 100.0), monotonic_clock, 0.0)]


def run(meter: EnergyMeter, seconds: float = 0.0, **options: Any) -> float:
    """Run a loop, and return how long its body took."""
    with meter.start(LoopDescription(repeats=True, **options)):
        begun = time.perf_counter()
        time.sleep(seconds)
        return time.perf_counter() - begun


def test_a_meter_that_starts_again_opens_no_device_anew(tmp_path: Path) -> None:
    backend = Counting()
    meter = EnergyMeter(backends=[backend], output_dir=tmp_path, verbose=False)
    seconds = sum(run(meter, 0.05) for _ in range(3))
    assert (backend.opened, backend.closed) == (1, 0)
    total = meter.record.total
    assert total.joules is not None
    assert 100.0 * seconds < 1.01 * total.joules < 1.05 * 100.0 * total.seconds
    del meter
    gc.collect()
    end = time.monotonic() + 10
    while not backend.closed and time.monotonic() < end:
        time.sleep(0.01)
    assert backend.closed == 1


def test_after_a_start_that_failed_the_devices_are_opened_anew(tmp_path: Path) -> None:
    backend, folder = Counting(), tmp_path / "run"
    meter = EnergyMeter(backends=[backend], output_dir=folder, verbose=False)
    run(meter, 0.05)
    folder.rename(tmp_path / "elsewhere")
    folder.write_text("a file in its way", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        meter.start(LoopDescription(repeats=True))
    folder.unlink()
    before = meter.record.total.joules or 0.0
    seconds = run(meter, 0.2)
    assert (meter.record.total.joules or 0.0) - before > 0.9 * 100.0 * seconds
    assert load_record(folder).run.status == "completed"


def test_other_gpus_and_devices_that_do_not_answer_are_looked_for_anew(tmp_path: Path) -> None:
    backend = Counting()
    meter = EnergyMeter(backends=[backend], output_dir=tmp_path, verbose=False)
    run(meter)
    run(meter, gpus=["cuda:0"])
    assert (backend.opened, backend.closed) == (2, 1)
    with meter.start(LoopDescription(repeats=True, gpus=["cuda:0"])):
        backend.silent = True
        end = time.monotonic() + 20
        while not meter.silent and time.monotonic() < end:
            time.sleep(0.05)
    backend.silent = False
    assert backend.closed == 2
    run(meter, gpus=["cuda:0"])
    assert backend.opened == 3


def test_a_meter_of_one_loop_closes_its_devices(tmp_path: Path) -> None:
    backend = Counting()
    with EnergyMeter(backends=[backend], output_dir=tmp_path, verbose=False):
        pass
    assert backend.closed == 1


AT_EXIT = """
from ml_energy_callbacks import EnergyMeter, LoopDescription
from ml_energy_callbacks.clock import monotonic_clock as clock
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
devices = [ScriptedBackend([ScriptedCounter(PowerCurve(clock, 100), clock)])]
meter = EnergyMeter(backends=devices, output_dir="run", verbose=False)
meter.start(LoopDescription(repeats=True))
meter.begin_stage("train")
kept = [meter]
kept.append(kept)
raise SystemExit(3)
"""


def test_a_run_that_the_interpreters_end_stops_does_not_hold_it_up(tmp_path: Path) -> None:
    """Its devices rest only then, and the garbage collector finds them when no thread can start any more."""
    ended = subprocess.run(
        [sys.executable, "-c", AT_EXIT], cwd=tmp_path, timeout=30, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (3, "")
    assert load_record(tmp_path / "run").run.status == "stopped"
