"""Ray Train for real: a driver, and two workers on this machine; and Ray Tune with its trials."""

import json
import os
import re
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
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.frameworks.ray_tune import EnergyStopper
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


EXAMPLES = Path(__file__).parents[2] / "examples" / "integrations"


def run(*args: str, folder: Path | None = None, **environment: str) -> str:
    """Run Python, and return its output, or fail with what it says where it fails."""
    done = subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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


def test_tune_stops_trials_and_then_the_sweep_by_their_energy(tmp_path: Path) -> None:
    run(str(Path(__file__).with_name("sweep.py")), str(tmp_path))
    told = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert told["errors"] == []
    used = [trial["energy/total/joules"] for trial in told["trials"]]
    # 200 J each epoch: a trial ends with its third, and the sweep of six with the second one of its third trial.
    assert [trial["training_iteration"] for trial in told["trials"]] == [3, 3, 2]
    assert [used[0] >= 500, used[1] >= 500, used[2] < 500] == [True] * 3
    assert told["joules"] == pytest.approx(sum(used))
    assert 1500 <= told["joules"] < 1700
    record = load_record(tmp_path / "records" / "0")
    assert (record.run.status, record.total.joules) == ("stopped", pytest.approx(used[0]))


@pytest.mark.full
def test_the_example_of_tune_prints_its_front(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(EXAMPLES), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    printed = run(str(EXAMPLES / "ray_tune_search.py"), "3", folder=tmp_path, **environment)
    records = [load_record(path) for path in tmp_path.glob("energy_logs/*/energy.json")]
    assert len(records) == 3
    assert "accuracy  joules  epochs  hidden" in printed
    assert re.search(r"^all trials: \d+\.\d J$", printed, re.MULTILINE)


def report(stopper: EnergyStopper, trial: str, joules: object) -> bool:
    return stopper(trial, {"energy/total/joules": joules, "accuracy": 0.5})


def test_a_trial_that_begins_again_adds_to_what_it_used() -> None:
    stopper = EnergyStopper(trial_joules=100, total_joules=150)
    assert not report(stopper, "a", 60.0)
    assert not report(stopper, "a", 30.0)  # of its second run
    assert not stopper.stop_all()
    assert report(stopper, "a", 45.0)
    assert not report(stopper, "b", 40.0)
    assert not stopper.stop_all()
    assert not report(stopper, "b", 45.0)
    assert stopper.joules == 150
    assert stopper.stop_all()


@pytest.mark.parametrize("unknown", [None, float("nan"), "much"])
def test_unknown_energy_stops_nothing_and_is_not_zero(unknown: object) -> None:
    stopper = EnergyStopper(trial_joules=1, total_joules=1)
    with pytest.warns(UserWarning, match="cannot check trial a, because its energy is unknown"):
        assert not report(stopper, "a", unknown)
    assert stopper.joules is None
    assert not stopper.stop_all()


def test_kwh_will_do() -> None:
    stopper = EnergyStopper(total_joules=7.2e6)
    assert not stopper("a", {"energy/total/kwh": 2.0})
    assert stopper.joules == 7.2e6
    assert stopper.stop_all()


@pytest.mark.parametrize("limits", [{}, {"trial_joules": 0}, {"total_joules": float("nan")}])
def test_a_stopper_has_a_limit_above_zero(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="EnergyStopper has"):
        EnergyStopper(**limits)
