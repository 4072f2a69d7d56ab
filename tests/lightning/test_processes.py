"""Real processes, stopped by real signals, resumed from real checkpoints, and two of them side by side."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import torch
from forked import Forked, Warm
from job_world import start_ranks, wait

from ml_energy_callbacks import RunRecord, load_record
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.testing.nvml import SimulatedDriver

SCRIPT = Path(__file__).with_name("train.py")

pytestmark = pytest.mark.xdist_group("programs")


def start_fresh(folder: Path, *args: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(SCRIPT), str(folder), *args]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def wait_for_record(folder: Path, seconds: float, batches: int) -> None:
    """Wait until the file says that the run has taken longer than this, and more batches."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(RecordError):
            record = load_record(folder)
            train = record.stages.get("train")
            if train and train.batches > batches and record.total.seconds > seconds:
                return
        time.sleep(0.05)
    raise AssertionError(folder)


@pytest.mark.parametrize(
    ("number", "status", "fresh"),
    [
        (signal.SIGKILL, "running", False),
        (signal.SIGINT, "stopped", True),
        (signal.SIGTERM, "stopped", False),
        pytest.param(signal.SIGKILL, "running", True, marks=pytest.mark.full),
        pytest.param(signal.SIGTERM, "stopped", True, marks=pytest.mark.full),
    ],
)
def test_a_signal_leaves_a_record_with_the_right_status(
    program: Warm, tmp_path: Path, number: int, status: str, *, fresh: bool
) -> None:
    process: Forked | subprocess.Popen[str]
    process = start_fresh(tmp_path) if fresh else program.start(SCRIPT, tmp_path, folder=tmp_path)
    with process:
        wait_for_record(tmp_path, seconds=2, batches=20)
        process.send_signal(number)
        process.wait(30)
    record = load_record(tmp_path)
    assert record.run.status == status
    assert record.total.seconds > 2
    assert record.stages["train"].samples
    assert (record.run.ended_at is None) == (number == signal.SIGKILL)


def test_a_fit_that_resumes_goes_on_from_the_checkpoints_totals(program: Warm, tmp_path: Path) -> None:
    program.run(SCRIPT, tmp_path / "a", "--epochs", 2, "--pause", 0.01, folder=tmp_path)
    first = load_record(tmp_path / "a")
    checkpoint = tmp_path / "a" / "last.ckpt"
    program.run(SCRIPT, tmp_path / "b", "--epochs", 3, "--pause", 0.01, "--resume", checkpoint, folder=tmp_path)
    second = load_record(tmp_path / "b")
    assert second.run.id == first.run.id
    assert second.run.started_at == first.run.started_at
    assert [epoch.index for epoch in second.epochs if epoch.stage == "train"] == [0, 1, 2]
    assert second.stages["train"].samples == 3 * 200
    before, after = ([epoch for epoch in record.epochs if epoch.stage == "train"] for record in (first, second))
    assert [epoch.joules for epoch in after[:2]] == pytest.approx([epoch.joules for epoch in before], rel=1e-3)
    kept = msgspec.convert(torch.load(checkpoint, weights_only=False)["callbacks"]["EnergyCallback"]["record"], RunRecord)
    train, kept_train = second.stages["train"], kept.stages["train"]
    passed_s = train.seconds - kept_train.seconds
    watts = (after[2].joules or 0) / after[2].seconds
    assert (train.joules or 0) - (kept_train.joules or 0) == pytest.approx(watts * passed_s, rel=0.25)
    assert after[2].seconds <= passed_s
    assert second.total.joules == pytest.approx(sum(stage.joules or 0 for stage in second.stages.values()))


def test_testing_a_checkpoint_does_not_rewind_the_totals(program: Warm, tmp_path: Path) -> None:
    program.run(SCRIPT, tmp_path, "--epochs", 1, "--pause", 0.001, "--test", folder=tmp_path)
    record = load_record(tmp_path)
    assert record.stages["train"].samples == 200
    assert record.stages["test"].samples == 200
    assert len([epoch for epoch in record.epochs if epoch.stage == "train"]) == 1


def test_two_processes_count_their_host_once_and_their_samples_together(
    program: Warm, driver_library: SimulatedDriver, tmp_path: Path
) -> None:
    for process in start_ranks(program, SCRIPT, driver_library, tmp_path, "--epochs", 2, "--pause", 0.005, "--devices", 2):
        wait(process)
    record = load_record(tmp_path)
    assert record.run.world_size == 2
    assert record.run.status == "completed"
    assert [device.id for device in record.devices] == ["cpu-model:0"]
    assert record.stages["train"].samples == 2 * 200
    assert record.stages["train"].batches == 2 * 2 * 25
    assert [epoch.samples for epoch in record.epochs if epoch.stage == "train"] == [200, 200]


@pytest.mark.parametrize("log_every", [1000, 0])
def test_a_budget_stops_all_processes_of_a_job_also_with_epochs_shorter_than_a_log(
    program: Warm, driver_library: SimulatedDriver, tmp_path: Path, log_every: int
) -> None:
    options = ("--epochs", 20, "--pause", 0.01, "--devices", 2, "--budget", 2e-6, "--log-every", log_every)
    for process in start_ranks(program, SCRIPT, driver_library, tmp_path, *options):
        wait(process)
    record = load_record(tmp_path)
    assert (record.run.status, record.run.world_size) == ("stopped", 2)
    assert record.run.reason == "The budget of 2.0e-6 kWh is spent."
    assert len([epoch for epoch in record.epochs if epoch.stage == "train"]) < 20
