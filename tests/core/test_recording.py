"""Recordings of live runs: written in the background, harmless to the run, and without what is private."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import INTERRUPTIBLE
from disks import fill, small_disk
from loads import steady

from ml_energy_callbacks import EnergyMeter, RunRecord
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.testing.replaying import replay_file

WATTS = 100.0


def meter(path: object, **options: Any) -> EnergyMeter:
    return EnergyMeter(recording=path, backends=[steady(WATTS)], verbose=False, **options)  # type: ignore[arg-type]


def measure(path: object, seconds: float = 0.3, **options: Any) -> RunRecord:
    """Measure a short loop in real time."""
    with meter(path, **options) as measured, measured.stage("train"):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with measured.batch(samples=4):
                time.sleep(0.01)
    return measured.record


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_recording_of_a_live_run_is_replayed_to_its_record(tmp_path: Path) -> None:
    live = measure(tmp_path / "new" / "raw.jsonl")
    again = replay_file(tmp_path / "new" / "raw.jsonl")
    assert again.total.joules == pytest.approx(live.total.joules, rel=1e-9)
    assert again.total.seconds == live.total.seconds
    assert again.stages["train"].phases == pytest.approx(live.stages["train"].phases)
    assert again.stages["train"].samples == live.stages["train"].samples
    assert again.devices == live.devices


def test_a_second_start_continues_the_recording_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    measured = meter(path)
    for stage in ("train", "test"):
        with measured, measured.stage(stage), measured.batch(samples=1):
            time.sleep(0.05)
    assert [line["line"] for line in lines(path)].count("start") == 2
    again = replay_file(path)
    assert again.total.joules == pytest.approx(measured.record.total.joules, rel=1e-9)
    assert again.stages.keys() == measured.record.stages.keys()


def test_another_run_replaces_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    measure(path)
    record = measure(path, 0.05)
    assert replay_file(path).total.seconds == record.total.seconds


def test_a_recording_has_nothing_of_the_user_or_the_host(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    with pytest.raises(RuntimeError), meter(path, tags={"team": "secret-team"}, output_dir=tmp_path / "secret-dir"):
        raise RuntimeError("secret-reason")  # noqa: EM101
    text = path.read_text(encoding="utf-8")
    for private in ("secret", str(tmp_path), socket.gethostname()):
        assert private not in text


@pytest.mark.parametrize("value", ["s3://bucket/raw.jsonl", "", "raw/", 5, "a\0b", b"raw"])
def test_what_is_no_file_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"give a file on this machine, such as 'raw\.jsonl'"):
        meter(value)


def test_a_file_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "file" / "raw.jsonl"):
        measured = meter(path)
        with pytest.raises(ConfigurationError, match=r"cannot be written \(.+\); choose another file"):
            measured.start()
        assert not measured.running


def test_a_pipe_that_somebody_reads_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(ConfigurationError, match="it is not a regular file"):
            meter(tmp_path / "pipe").start()
    finally:
        os.close(reader)


def test_two_runs_at_once_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    with meter(path), pytest.raises(ConfigurationError, match="another run writes it"):
        meter(path).start()
    measure(path, 0.05)


def test_a_full_disk_ends_the_recording_with_one_warning(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        record = measure(disk / "raw.jsonl", 0.7)
    assert record.run.status == "completed"
    assert record.total.joules is not None
    warnings = [warning for warning in record.warnings if "recording" in warning]
    assert warnings == [
        f"The recording {disk / 'raw.jsonl'} ends early: No space left on device. Figures of the run are not affected."
    ]


def test_a_disk_that_fills_up_leaves_a_recording_of_what_came_before(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "raw.jsonl"
        with meter(path) as measured, measured.stage("train"):
            time.sleep(0.2)
            deadline = time.monotonic() + 30
            while not any("ends early" in warning for warning in measured.record.warnings) and time.monotonic() < deadline:
                for _ in range(500):
                    with measured.batch(samples=1):
                        pass
                time.sleep(0.01)
        again = replay_file(path)
        assert again.run.status == "stopped"
        assert 0 < again.total.seconds < measured.record.total.seconds
        assert measured.record.run.status == "completed"


KILLED = """
import os, signal, sys, time
from loads import steady
from ml_energy_callbacks import EnergyMeter
with EnergyMeter(recording=sys.argv[1], backends=[steady(100.0)], verbose=False) as meter, meter.stage("train"):
    while True:
        with meter.batch(samples=4):
            time.sleep(0.01)
"""


def test_a_killed_run_leaves_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("PYTHONSAFEPATH", None)
    with subprocess.Popen([sys.executable, "-c", INTERRUPTIBLE + KILLED, str(path)], env=environment) as process:
        deadline = time.monotonic() + 60
        while not (path.is_file() and path.stat().st_size > 3000) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    record = replay_file(path)
    assert record.run.reason == "The recording ends before the run does."
    assert record.stages["train"].batches > 0
    assert record.total.joules is not None


NO_THREADS = """
import json, sys
from pathlib import Path
from privilege import start_no_more_threads
from ml_energy_callbacks import EnergyMeter
with EnergyMeter(output_dir=Path(sys.argv[1]) / "before", recording=sys.argv[1] + "/before.jsonl", verbose=False):
    pass
start_no_more_threads(Path(sys.argv[1]))
with EnergyMeter(recording=sys.argv[1] + "/raw.jsonl", verbose=False) as meter, meter.stage("train"), meter.batch(samples=4):
    pass
print(json.dumps(meter.record.warnings))
"""


def test_a_process_without_threads_goes_on_without_a_recording(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, "-c", NO_THREADS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sum("raw.jsonl ends early" in warning for warning in json.loads(done.stdout)) == 1


def test_an_instant_of_the_run_is_in_one_place(tmp_path: Path) -> None:
    """Each line has a kind and an instant, and the first one says what was read and by which version."""
    path = tmp_path / "raw.jsonl"
    measure(path)
    found = lines(path)
    assert all({"line", "ns"} <= line.keys() for line in found)
    assert found[0]["line"] == "start"
    assert found[0]["package"]
    assert found[0]["devices"][0]["id"] == "scripted:0"
    assert {line["line"] for line in found} == {"start", "mark", "readings", "fit", "close", "stop"}
