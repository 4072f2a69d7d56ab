"""Recordings of live runs: written in the background, harmless to the run, and without what is private."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import INTERRUPTIBLE
from disks import fill, held_write, small_disk
from loads import steady
from msgspec import to_builtins

from ml_energy_callbacks import EnergyMeter, RunRecord
from ml_energy_callbacks.backends.plug import PlugBackend
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
from ml_energy_callbacks.testing.plug import SimulatedPlug
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
    for device, recorded in zip(again.devices, live.devices, strict=True):
        assert to_builtins(device) == pytest.approx(to_builtins(recorded), rel=1e-9)
    assert again.run.id == live.run.id


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


class Explained(ScriptedCounter):
    """A counter with sentences about this machine."""

    def __init__(self) -> None:
        super().__init__(PowerCurve(monotonic_clock, WATTS), monotonic_clock)
        reason = "/secret/path cannot be read on secret-host."
        self.device = replace(self.device, note=reason, missing=reason, unread=reason)


def test_a_recording_has_no_address_of_a_plug_and_no_reasons(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    plug = SimulatedPlug([PowerCurve(monotonic_clock, WATTS)], monotonic_clock)
    backends = [PlugBackend([plug.address.replace("127.0.0.1", "localhost")]), ScriptedBackend([Explained()])]
    with EnergyMeter(recording=path, backends=backends, verbose=False) as measured, measured.stage("train"):
        time.sleep(1.3)
    text = path.read_text(encoding="utf-8")
    assert "localhost" not in text
    assert "secret" not in text
    (live,), (again,) = measured.record.whole_machine, replay_file(path).whole_machine
    assert live.id.startswith("plug:localhost:")
    assert (again.id, again.joules) == ("plug:machine-1", pytest.approx(live.joules, rel=1e-6))


@pytest.mark.parametrize("value", ["energy.json", "runs/energy.json", "energy.rank3.json"])
def test_the_name_of_a_record_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"but not energy\.json, which is the run's record"):
        meter(value)


def test_a_file_that_is_no_recording_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("precious\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="it is not a recording, and would be lost"):
        meter(path).start()
    assert path.read_text(encoding="utf-8") == "precious\n"


def test_a_refused_start_leaves_the_recording_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    measure(path, 0.1)
    before = path.read_bytes()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="The run file"):
        meter(path, output_dir=tmp_path / "file" / "runs").start()
    assert path.read_bytes() == before


@pytest.mark.parametrize("options", [{"raw_readings": True}, {"recording": "raw.jsonl"}], ids=["raw readings", "recording"])
def test_a_refused_start_leaves_no_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "energy.json").mkdir()
    with pytest.raises(ConfigurationError, match="The run file"):
        EnergyMeter(output_dir=tmp_path, backends=[steady(100.0)], verbose=False, **options).start()
    assert [file.name for file in tmp_path.iterdir()] == ["energy.json"]


def test_a_start_after_a_refused_one_begins_the_recording_anew(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    mine = meter(path)
    with meter(path) as other, other.stage("train"), pytest.raises(ConfigurationError, match="another run writes it"):
        mine.start()
    with mine, mine.stage("test"), mine.batch(samples=1):
        time.sleep(0.05)
    assert replay_file(path).stages.keys() == mine.record.stages.keys() == {"other", "test"}
    assert replay_file(path).run.id == mine.record.run.id


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


def train_until_the_recording_ends(measured: EnergyMeter) -> None:
    """Run batches until the disk is full, for 30 s at most."""
    deadline = time.monotonic() + 30
    while not any("ends early" in warning for warning in measured.record.warnings) and time.monotonic() < deadline:
        for _ in range(500):
            with measured.batch(samples=1):
                pass
        time.sleep(0.01)


def test_a_disk_that_fills_up_leaves_a_recording_of_what_came_before(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "raw.jsonl"
        with meter(path) as measured, measured.stage("train"):
            time.sleep(0.2)
            train_until_the_recording_ends(measured)
        again = replay_file(path)
        assert again.run.status == "stopped"
        assert 0 < again.total.seconds < measured.record.total.seconds
        assert measured.record.run.status == "completed"


def test_a_start_after_a_full_disk_continues_the_recording(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "raw.jsonl"
        measured = meter(path)
        with measured, measured.stage("train"):
            train_until_the_recording_ends(measured)
        assert path.read_bytes().endswith(b"}\n")
        subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)
        with path.open("ab") as file:
            file.write(b'{"line":"mark","n')  # as where the process before was killed
        with measured, measured.stage("test"), measured.batch(samples=1):
            time.sleep(0.05)
        again = replay_file(path)
        assert again.stages.keys() == {"other", "train", "test"}
        assert again.stages["test"].seconds == measured.record.stages["test"].seconds


def test_a_recording_that_is_deleted_or_cut_during_the_run_is_told(tmp_path: Path) -> None:
    for harm in (Path.unlink, lambda path: os.truncate(path, 0), lambda path: path.rename(path.with_suffix(".moved"))):
        path = tmp_path / "raw.jsonl"
        with meter(path) as measured, measured.stage("train"):
            deadline = time.monotonic() + 30
            while not path.stat().st_size and time.monotonic() < deadline:
                time.sleep(0.01)
            harm(path)
        (warning,) = [warning for warning in measured.record.warnings if "recording" in warning]
        assert warning.startswith(f"The recording {path} ends early: it was deleted, moved or cut during the run.")
        path.unlink(missing_ok=True)


HELD = """
import ctypes, json, os, sys, time
from loads import steady
from ml_energy_callbacks import EnergyMeter
held = ctypes.c_int.in_dll(ctypes.CDLL(os.environ["LD_PRELOAD"]), "held")
measured = EnergyMeter(recording=sys.argv[1], backends=[steady(100.0)], verbose=False)
held.value = 1
begin = time.monotonic()
with measured, measured.stage("train"):
    time.sleep(2)  # a first write has begun
    for _ in range(int(sys.argv[2])):
        with measured.batch(samples=1):
            pass
    ended = time.monotonic()
print(json.dumps([time.monotonic() - ended, measured.record.total.joules, measured.record.warnings]))
with measured, measured.stage("test"):
    pass
print(json.dumps(measured.record.warnings))
held.value = 0
deadline = time.monotonic() + 60
while not os.path.getsize(sys.argv[1]) and time.monotonic() < deadline:
    time.sleep(0.01)
with measured, measured.stage("test"):
    pass
print(json.dumps(measured.record.warnings))
"""


@pytest.mark.parametrize(
    ("batches", "reason"), [(10, "the disk does not answer"), (60_000, "the disk is too slow")], ids=["few", "many"]
)
def test_a_disk_that_does_not_answer_ends_the_recording(tmp_path: Path, batches: int, reason: str) -> None:
    path = tmp_path / "raw.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "LD_PRELOAD": str(held_write(tmp_path))}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, "-c", HELD, str(path), str(batches)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (waited, joules, warnings), second, third = map(json.loads, done.stdout.splitlines())
    assert waited < 15  # 2 s for the disk, beside the end of the run itself
    assert joules > 0
    early = f"The recording {path} ends early: {reason}. Figures of the run are not affected."
    refused = f"The recording {path} cannot be written (the disk does not answer since the run before); choose another file."
    assert [warning for warning in warnings if "recording" in warning] == [early]
    assert [warning for warning in second if "recording" in warning] == [early, refused]
    # Once the disk answers, the recording goes on.
    assert [warning for warning in third if "recording" in warning] == [early, refused]
    assert [line["line"] for line in lines(path)].count("start") == 2


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


def test_each_line_has_its_kind_and_its_instant(tmp_path: Path) -> None:
    """The first one says what was read and by which version."""
    path = tmp_path / "raw.jsonl"
    measure(path)
    found = lines(path)
    assert all({"line", "ns"} <= line.keys() for line in found)
    assert found[0]["line"] == "start"
    assert found[0]["package"]
    assert found[0]["devices"][0]["id"] == "scripted:0"
    assert {line["line"] for line in found} == {"start", "mark", "readings", "fit", "close", "stop"}
