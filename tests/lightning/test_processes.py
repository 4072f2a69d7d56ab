"""Real processes, stopped by real signals, resumed from real checkpoints, and two of them side by side."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml_energy_callbacks import load_record

SCRIPT = Path(__file__).with_name("train.py")


def start(folder: Path, *args: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(SCRIPT), str(folder), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdout is not None
    for found in process.stdout:
        if found.strip() == line:
            return
    raise AssertionError(process.stderr.read() if process.stderr else "")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, "running"), (signal.SIGINT, "stopped"), (signal.SIGTERM, "stopped")]
)
def test_a_signal_leaves_a_record_with_the_right_status(tmp_path: Path, number: int, status: str) -> None:
    with start(tmp_path) as process:
        wait_for(process, "batch 20")
        time.sleep(3)
        process.send_signal(number)
        process.communicate(timeout=30)
    record = load_record(tmp_path)
    assert record.run.status == status
    assert record.total.seconds > 2
    assert record.stages["train"].samples
    assert (record.run.ended_at is None) == (number == signal.SIGKILL)


def test_a_fit_that_resumes_goes_on_from_the_checkpoints_totals(tmp_path: Path) -> None:
    with start(tmp_path / "a", "--epochs", "2", "--pause", "0.01") as process:
        process.communicate(timeout=60)
    first = load_record(tmp_path / "a")
    checkpoint = tmp_path / "a" / "last.ckpt"
    with start(tmp_path / "b", "--epochs", "3", "--pause", "0.01", "--resume", str(checkpoint)) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    second = load_record(tmp_path / "b")
    assert second.run.id == first.run.id
    assert second.run.started_at == first.run.started_at
    assert [epoch.index for epoch in second.epochs if epoch.stage == "train"] == [0, 1, 2]
    assert second.stages["train"].samples == 3 * 200
    train = second.stages["train"]
    assert train.joules == pytest.approx(1.5 * (first.stages["train"].joules or 0), rel=0.25)
    assert second.total.joules == pytest.approx(sum(stage.joules or 0 for stage in second.stages.values()))


def test_testing_a_checkpoint_does_not_rewind_the_totals(tmp_path: Path) -> None:
    with start(tmp_path, "--epochs", "1", "--pause", "0.001", "--test") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    record = load_record(tmp_path)
    assert record.stages["train"].samples == 200
    assert record.stages["test"].samples == 200
    assert len([epoch for epoch in record.epochs if epoch.stage == "train"]) == 1


def test_two_processes_count_their_host_once_and_their_samples_together(tmp_path: Path) -> None:
    with start(tmp_path, "--epochs", "2", "--pause", "0.005", "--devices", "2") as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    record = load_record(tmp_path)
    assert record.run.world_size == 2
    assert record.run.status == "completed"
    assert [device.id for device in record.devices] == ["cpu-model:0", "memory-model:0"]
    assert record.stages["train"].samples == 2 * 200
    assert record.stages["train"].batches == 2 * 2 * 25
    assert [epoch.samples for epoch in record.epochs if epoch.stage == "train"] == [200, 200]


@pytest.mark.parametrize("log_every", [1000, 0])
def test_a_budget_stops_all_processes_of_a_job_also_with_epochs_shorter_than_a_log(tmp_path: Path, log_every: int) -> None:
    options = ("--epochs", "20", "--pause", "0.01", "--devices", "2", "--budget", "2e-6", "--log-every", str(log_every))
    with start(tmp_path, *options) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    record = load_record(tmp_path)
    assert (record.run.status, record.run.world_size) == ("stopped", 2)
    assert record.run.reason == "The budget of 2.0e-6 kWh is spent."
    assert len([epoch for epoch in record.epochs if epoch.stage == "train"]) < 20
