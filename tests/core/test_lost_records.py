"""No record is lost: full disks, hung disks, other working directories, other encodings, impatient users."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from command import INTERRUPTIBLE, ml_energy
from disks import fill, make_read_only, slow_fsync, small_disk, use_all_inodes
from loads import steady
from service import Service

from ml_energy_callbacks import EnergyMeter, LoopDescription, RunRecord, load_record
from ml_energy_callbacks.carbon import ElectricityMaps
from ml_energy_callbacks.clock import Timing
from ml_energy_callbacks.meter.sampler import Sampler
from ml_energy_callbacks.report.export import Format, export
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter

SURROGATE = os.fsdecode(b"caf\xe9")


def meter(folder: Path | str | None, **options: object) -> EnergyMeter:
    options = {"backends": [steady(100.0)], "carbon_intensity": 1, "verbose": False, **options}
    return EnergyMeter(output_dir=folder, **options)  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that has the copies of records whose place fails."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ml-energy-callbacks"


def run_program(code: str, *arguments: object, status: int = 0, **variables: str) -> list[str]:
    """Run a program in a process of its own, and return the lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTIBLE + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **variables},
    )
    assert done.returncode == status, done.stderr
    return done.stdout.splitlines()


# ------------------------------------------------------------------------------------------------------------ where it is


def test_a_change_of_the_working_directory_moves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    m = meter("runs")
    with m:
        monkeypatch.chdir(tmp_path / "second")
    assert m.record_path == tmp_path / "first" / "runs" / "energy.json"
    assert load_record(m.record_path).run.status == "completed"
    with m:  # a meter that is started again has the same record
        pass
    assert m.record_path == tmp_path / "first" / "runs" / "energy.json"
    assert not list((tmp_path / "second").iterdir())


def test_a_frameworks_relative_directory_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    m = meter(None).start(LoopDescription(output_dir="logs"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    m.stop()
    assert m.record_path == tmp_path / "logs" / "energy.json"
    assert load_record(m.record_path).run.status == "completed"


def test_a_tilde_is_the_users_home_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "grid.csv").write_text("time,g_per_kwh\n2020-01-01T00:00:00Z,100\n2100-01-01T00:00:00Z,100\n", encoding="utf-8")
    with meter("~/runs", carbon_intensity="~/grid.csv") as m:
        pass
    assert m.record_path == tmp_path / "runs" / "energy.json"
    assert load_record("~/runs") == m.record
    assert ml_energy("report", "~/runs/*", "--csv=~/runs.csv").returncode == 0
    assert (tmp_path / "runs.csv").exists()


# ------------------------------------------------------------------------------------------------------------ disks


@pytest.mark.parametrize(
    ("options", "fault", "reason"),
    [
        ((), fill, "No space left on device"),
        (("nr_inodes=64",), use_all_inodes, "No space left on device"),
        ((), make_read_only, "Read-only file system"),
    ],
    ids=["full", "no inodes", "read-only"],
)
def test_a_disk_that_fails_in_mid_run_costs_no_record(
    tmp_path: Path, cache: Path, options: tuple[str, ...], fault: Callable[[Path], None], reason: str
) -> None:
    with small_disk(tmp_path / "disk", *options) as disk:
        with meter(disk / "run") as m:
            fault(disk)
        assert load_record(disk / "run").run.status == "running"
        spare = cache / f"energy-{m.record.run.id[:8]}.json"
        assert m.record_path == spare
        assert load_record(spare) == m.record
        assert m.record.run.status == "completed"
        (warning,) = m.record.warnings
        assert warning.startswith(f"The run file {disk / 'run' / 'energy.json'} could not be written ({reason}); ")
        assert warning.endswith(f"until it can be, the record is kept in {spare}.")


def test_a_disk_that_has_space_again_gets_the_record(tmp_path: Path, cache: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with meter(disk / "run") as m:
            fill(disk)
            end = time.monotonic() + 30
            while m.record_path == disk / "run" / "energy.json" and time.monotonic() < end:
                time.sleep(0.01)  # a review writes the record after 1 s
            assert m.record_path == cache / f"energy-{m.record.run.id[:8]}.json"
            (disk / "filler").unlink()
        assert m.record_path == disk / "run" / "energy.json"
        assert load_record(m.record_path) == m.record
    assert not list(cache.iterdir())


def test_a_process_without_free_descriptors_writes_its_record(tmp_path: Path) -> None:
    code = """
import os, resource, sys
from ml_energy_callbacks import EnergyMeter
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
opened = []
with EnergyMeter(backends=[], output_dir=sys.argv[1], carbon_intensity=1, verbose=False) as meter:
    try:
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        assert "Too many open files" in str(error)
print(meter.record_path)
"""
    assert run_program(code, tmp_path) == [str(tmp_path / "energy.json")]
    record = load_record(tmp_path)
    assert (record.run.status, record.warnings) == ("completed", ["No device can be read on this machine: energy is unknown."])


@pytest.fixture(scope="module")
def fsync(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library in which `fsync` is slow, or hangs."""
    return slow_fsync(tmp_path_factory.mktemp("fsync"))


SLOW = """
import ctypes, os, sys, time
from ml_energy_callbacks import EnergyMeter, load_record
fsync_ms = ctypes.c_long.in_dll(ctypes.CDLL(os.environ["LD_PRELOAD"]), "fsync_ms")
meter = EnergyMeter(backends=[], output_dir=sys.argv[1], carbon_intensity=1, verbose=False).start()
"""


def test_a_slow_disk_makes_no_record_old(tmp_path: Path, fsync: Path) -> None:
    code = f"""{SLOW}
fsync_ms.value = 300
time.sleep(4.5)
seen = load_record(sys.argv[1]).total.seconds
print(meter.record.total.seconds - seen)
fsync_ms.value = 0
meter.stop()
"""
    (age_s,) = map(float, run_program(code, tmp_path, LD_PRELOAD=str(fsync)))
    assert age_s < 3  # a review after 1 s, and one 2 s later; before, the second one came 15 s later
    assert load_record(tmp_path).run.status == "completed"


def test_a_long_record_is_at_most_ten_seconds_old() -> None:
    clock = ManualClock()
    reviewed: list[float] = []

    def review() -> None:
        clock.advance(0.9)
        reviewed.append(clock() / 1e9)

    sampler = Sampler({}, Timing(clock, clock.advance), review)
    for pause in sampler._reviewing():
        clock.advance(pause)
        if len(reviewed) > 5:
            break
    pauses = [later - earlier for earlier, later in pairwise(reviewed)]
    assert max(pauses) < 10


def test_a_disk_that_hangs_does_not_hold_the_end(tmp_path: Path, fsync: Path, cache: Path) -> None:
    code = f"""{SLOW}
fsync_ms.value = -1
begin = time.monotonic()
meter.stop()
print(time.monotonic() - begin)
print(meter.record_path, flush=True)
"""
    seconds, place = run_program(code, tmp_path / "run", LD_PRELOAD=str(fsync))
    assert float(seconds) < 15  # it waits for 5 s
    assert Path(place).parent == cache
    record = load_record(place)
    assert record.run.status == "completed"
    assert record.warnings[-1].startswith(
        f"The run file {tmp_path / 'run' / 'energy.json'} could not be written (it does not answer)"
    )


# ------------------------------------------------------------------------------------------------------------ encodings


def test_a_record_with_texts_that_are_not_utf_8_is_written(tmp_path: Path) -> None:
    folder = tmp_path / SURROGATE
    m = meter(folder, tags={"team": SURROGATE})
    with pytest.raises(OSError, match="caf"), m:
        raise OSError(SURROGATE)
    assert m.record_path == folder / "energy.json"
    record = load_record(folder)
    assert record == m.record
    assert (record.run.reason, record.run.tags) == ("OSError: caf\\udce9", {"team": "caf\\udce9"})
    for form in (Format.CODECARBON_CSV, Format.MODEL_CARD):
        export(record, form).encode()
    shown = ml_energy("report", folder, "--json", folder=tmp_path)
    assert json.loads(shown.stdout)["run"]["tags"] == {"team": "caf\\udce9"}
    assert ml_energy("report", f"{tmp_path}/*", "--by", "tag:team", "--csv", "runs.csv", folder=tmp_path).returncode == 0
    assert "caf\\udce9" in (tmp_path / "runs.csv").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ the user


@pytest.mark.parametrize("gap_s", [0.0, 0.02, 0.06, 0.1, 0.2])
def test_a_second_interrupt_leaves_no_running_record(tmp_path: Path, gap_s: float) -> None:
    code = """
import os, signal, sys, threading, time
from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
device = ScriptedCounter(PowerCurve(monotonic_clock, 100.0), monotonic_clock, period_s=0.2)  # its refresh is waited for
with EnergyMeter(backends=[ScriptedBackend([device])], output_dir=sys.argv[1], carbon_intensity=1, verbose=False) as meter:
    with meter.stage("train"):
        time.sleep(1)
        interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(float(sys.argv[2]), interrupt).start()
        interrupt()
        time.sleep(60)
"""
    run_program(code, tmp_path, gap_s, status=-signal.SIGINT)
    record = load_record(tmp_path)
    assert (record.run.status, record.run.reason) == ("stopped", "KeyboardInterrupt")
    assert record.run.ended_at is not None
    assert record.total.joules == pytest.approx(100 * record.total.seconds, rel=0.4)


def test_an_interrupt_while_it_starts_leaves_no_running_record(tmp_path: Path) -> None:
    code = """
import os, signal, sys, threading
from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
class Counter(ScriptedCounter):
    reads = 0
    def read(self):
        if "sampler" in threading.current_thread().name:
            self.reads += 1
            if self.reads == 5:  # its first refresh is waited for
                os.kill(os.getpid(), signal.SIGINT)
        return super().read()
device = Counter(PowerCurve(monotonic_clock, 100.0), monotonic_clock, period_s=1.0)
try:
    with EnergyMeter(backends=[ScriptedBackend([device])], output_dir=sys.argv[1], carbon_intensity=1, verbose=False):
        raise SystemExit("The meter has started.")
except KeyboardInterrupt:
    print([thread.name for thread in threading.enumerate() if "sampler" in thread.name])
"""
    assert run_program(code, tmp_path) == ["[]"]
    record = load_record(tmp_path)
    assert (record.run.status, record.run.reason) == ("stopped", "KeyboardInterrupt")
    assert record.run.ended_at is not None


# ------------------------------------------------------------------------------------------------------------ carbon


@pytest.mark.parametrize("seconds", [0.5, 3.5, 8.0, 14.0])
def test_a_silent_service_leaves_the_places_grams(seconds: float) -> None:
    service, clock = Service(), ManualClock()
    try:
        with service.silent():
            maps = ElectricityMaps("FR", token="t0ken", url=service.url)  # noqa: S106 - made up
            counter = ScriptedCounter(PowerCurve(clock, 100.0), clock)
            m = SteppedMeter(clock, backends=[ScriptedBackend([counter])], carbon_intensity=maps, verbose=False)
            with m, m.stage("train"):
                clock.advance(seconds)
            record: RunRecord = m.record
    finally:
        service.close()
    assert record.total.joules is not None
    assert record.total.co2e_grams == pytest.approx(record.total.joules / 3.6e6 * 56.039, rel=1e-6)
    assert (record.carbon.fallback_share, len(record.carbon.intervals)) == (1.0, 1)
    assert record.warnings == ["The fallback intensity of FRA is used: Electricity Maps has not answered yet."]
