"""Ray Train for real: a driver, and two workers on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from ray.train._internal.storage import StorageContext as OlderStorage
from ray.train.v2._internal.execution.storage import StorageContext
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ml_energy_callbacks import load_record
from ml_energy_callbacks.job.launcher import _directory

PLACES = ["night/plain", "night"]
"""Directories of the records of the plain loop and of Lightning's."""

ENVIRONMENT = {
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "PYTHONWARNINGS": "ignore",
    "RAY_AUTH_MODE": "disabled",  # or it writes a token into the user's home
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # of 15 by default, with which a worker gets 3 % of a core that others use
}


def run(*args: str, **environment: str) -> None:
    """Run Python, and fail with what it says where it fails."""
    done = subprocess.run(
        [sys.executable, *args],
        env={**os.environ, **ENVIRONMENT, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ray's storage path, with what it told of the run."""
    folder = tmp_path_factory.mktemp("ray")
    run(str(Path(__file__).with_name("train.py")), str(folder))
    return folder


def told(folder: Path) -> Any:
    return json.loads((folder / "told.json").read_text(encoding="utf-8"))


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("place", PLACES)
def test_the_record_arrives_in_the_runs_storage_path(folder: Path, place: str) -> None:
    assert told(folder)["path"] == str(folder / "night")
    assert [path.name for path in (folder / place).glob("energy*")] == ["energy.json"]
    record = load_record(folder / place)
    assert (record.run.status, record.run.world_size) == ("completed", 2)
    assert (record.run.launcher, record.run.job_id) == ("ray", "night")
    assert record.warnings == []


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("place", PLACES)
def test_the_workers_count_their_host_once_and_all_their_gpus(folder: Path, place: str) -> None:
    record = load_record(folder / place)
    first, second = (json.loads((folder / place / f"truth-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    truth = second | first  # the host's processor is the first one's
    assert {device.id: device.joules for device in record.devices} == pytest.approx(truth, rel=1e-3)
    assert record.total.joules == pytest.approx(sum(truth.values()), rel=1e-3)
    assert [rank.samples for rank in record.ranks] == [80, 80]
    assert record.stages["train"].samples == 160


@pytest.mark.xdist_group("ray")
def test_each_epoch_is_among_the_metrics_that_ray_has(folder: Path) -> None:
    epochs = [epoch.joules or 0.0 for place in PLACES for epoch in load_record(folder / place).epochs]
    reported = told(folder)["epochs"]
    assert len(epochs) == 4
    # Lightning's own numbers are of single precision.
    assert [metrics["energy/train/joules"] for metrics in reported] == pytest.approx(epochs, rel=1e-6)
    last = told(folder)["last"]
    assert last["energy/train/joules"] == pytest.approx(epochs[-1], rel=1e-6)
    assert sum(epochs[-2:]) < last["energy/total/joules"] < (load_record(folder / "night").total.joules or 0.0)


@pytest.mark.xdist_group("ray")
def test_tensorboard_has_them_as_well(folder: Path) -> None:
    epochs = [epoch.joules for epoch in load_record(folder / "night").epochs]
    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    assert [event.value for event in events.Scalars("energy/train/joules")] == pytest.approx(epochs, rel=1e-6)


@pytest.mark.parametrize("newer", ["0", "1"])
def test_a_driver_is_no_worker(newer: str) -> None:
    code = "import ray.train; from ml_energy_callbacks.job.launcher import launched; assert launched() is None"
    run("-c", code, RAY_TRAIN_V2_ENABLED=newer)


FILE_SYSTEMS: Mapping[str, tuple[pyarrow.fs.FileSystem, str]] = {
    "/shared/runs": (pyarrow.fs.LocalFileSystem(), "/shared/runs"),
    "s3://bucket/runs": (pyarrow.fs.S3FileSystem(anonymous=True, region="eu-west-1"), "bucket/runs"),
    "memory:///runs": (pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(MemoryFileSystem())), "/runs"),
}


@pytest.mark.parametrize("url", FILE_SYSTEMS)
def test_a_storage_path_may_be_a_url(url: str) -> None:
    system, path = FILE_SYSTEMS[url]
    storage = StorageContext(path, "night", storage_filesystem=system, read_only=True)
    assert _directory(storage) == f"{url}/night"


def test_in_rays_older_api_each_trial_has_a_directory(tmp_path: Path) -> None:
    (tmp_path / "night").mkdir()
    storage = OlderStorage(str(tmp_path), "night", trial_dir_name="trial-1")
    assert _directory(storage) == str(tmp_path / "night" / "trial-1")


def test_storage_that_no_url_names_is_not_used() -> None:
    system = pyarrow.fs.SubTreeFileSystem("/shared", pyarrow.fs.LocalFileSystem())
    assert _directory(StorageContext("runs", "night", storage_filesystem=system, read_only=True)) is None
