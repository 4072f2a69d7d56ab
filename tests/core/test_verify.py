"""A record is reckoned anew from its raw readings: whatever was changed in one of the two is found."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command import INTERRUPTIBLE, ml_energy, ml_energy_process
from disks import fill, small_disk
from loads import steady

from ml_energy_callbacks import EnergyMeter, RunRecord, load_record
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.recorder import Recorder
from ml_energy_callbacks.record.chain import read_chunks
from ml_energy_callbacks.record.load import encode_record
from ml_energy_callbacks.record.merge import add_records
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter
from ml_energy_callbacks.testing.replaying import replay_file

CHUNKS = 3


def measure(folder: Path, starts: int = CHUNKS, **options: Any) -> RunRecord:
    """Measure a training with waits and two epochs each time that the meter starts; each start ends a chunk."""
    clock = ManualClock(10**12)
    curve = PowerCurve(clock, 90.0)
    backend = ScriptedBackend([ScriptedCounter(curve, clock, 0.1, 0.013)])
    meter = SteppedMeter(clock, backends=[backend], output_dir=folder, raw_readings=True, verbose=False, **options)
    for _ in range(starts):
        with meter, meter.stage("train"):
            for index in range(2):
                since = meter.point()
                for _ in range(5):
                    curve.set(90.0)
                    clock.advance(0.2)
                    with meter.batch(samples=8):
                        curve.set(420.0)
                        clock.advance(0.5)
                meter.close_epoch("train", index, since, {"loss": 0.5})
    return load_record(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    measure(folder, location="FRA", pue=1.2)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of a run that a test may change: its directory was moved, with the raw readings."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def readings_of(folder: Path) -> Path:
    (file,) = folder.glob("*.readings.jsonl.gz")
    return file


def test_a_record_and_its_readings_are_the_same_wherever_they_are(made: Path, run: Path) -> None:
    record = load_record(run)
    for found in (load_record(made).verify(), record.verify(run), record.verify(run / "energy.json")):
        assert (found.same, found.reason, found.largest_difference) == (True, None, 0.0)
        assert found.seconds == record.total.seconds
    assert record.raw_readings[0].chunks == CHUNKS
    assert len(record.epochs) == 2 * CHUNKS
    assert record.total.co2e_grams


def test_any_changed_byte_of_the_readings_is_found(run: Path, *, full: bool) -> None:
    file, record = readings_of(run), load_record(run)
    data = file.read_bytes()
    rng = random.Random(1)
    positions = [0, 9, len(data) - 1, *rng.sample(range(len(data)), 27)]
    for position in range(len(data)) if full else positions:
        changed = bytearray(data)
        changed[position] ^= rng.randint(1, 255)
        file.write_bytes(changed)
        found = record.verify(run)
        assert found.same is False, position
        assert "were changed" in (found.reason or "") or "not those of the record" in (found.reason or ""), position
    file.write_bytes(data)
    assert record.verify(run).same


def chunks_of(file: Path) -> list[bytes]:
    data = file.read_bytes()
    with file.open("rb") as source:
        ends = [0, *(seal.size for seal, _ in read_chunks(source))]
    return [data[begin:end] for begin, end in pairwise(ends)]


@pytest.mark.parametrize(
    "harm",
    [
        lambda chunks: [chunks[0], chunks[2], chunks[1]],
        lambda chunks: [chunks[1], *chunks[1:]],
        lambda chunks: chunks[:2],
        lambda chunks: chunks[1:],
        lambda chunks: [],
        lambda chunks: [*chunks, chunks[-1]],
        lambda chunks: [*chunks, b"\0" * 100],
        lambda chunks: [*chunks, b"more"],
        lambda chunks: [*chunks[:2], chunks[2][:-20]],
        lambda chunks: [*chunks[:2], gzip.compress(gzip.decompress(chunks[2]), 1)],
    ],
    ids=["exchanged", "twice", "last lost", "first lost", "empty", "repeated", "zeros", "longer", "cut", "packed anew"],
)
def test_chunks_that_are_not_those_of_the_record_are_found(run: Path, harm: Any) -> None:
    file = readings_of(run)
    file.write_bytes(b"".join(harm(chunks_of(file))))
    found = load_record(run).verify(run)
    assert found.same is False
    assert found.reason
    assert str(file) in found.reason


def test_readings_that_were_made_up_with_a_chain_of_their_own_are_found(run: Path, tmp_path: Path) -> None:
    measure(tmp_path / "other", pue=1.2, location="FRA")
    readings_of(run).write_bytes(readings_of(tmp_path / "other").read_bytes())
    found = load_record(run).verify(run)
    assert (found.same, "are not those of the record" in (found.reason or "")) == (False, True)


def numbers(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where the numbers of a plain value are."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, each in pairs for found in numbers(each, (*path, key))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) and value else []


def test_a_changed_figure_of_the_record_is_found(run: Path, *, full: bool) -> None:
    plain = msgspec.to_builtins(load_record(run))
    compared = ("devices", "stages", "epochs", "total", "power")
    paths = [path for part in compared for path in numbers(plain[part], (part,)) if "metrics" not in path]
    for path in paths if full else random.Random(2).sample(paths, 8):
        changed = json.loads(json.dumps(plain))
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = place[path[-1]] + 1 if isinstance(place[path[-1]], int) else place[path[-1]] * 1.001
        found = msgspec.convert(changed, RunRecord).verify(run)
        assert found.same is False, path
        assert "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:] in [
            difference.field for difference in found.differences
        ]


def test_a_small_change_of_a_figure_that_is_no_energy_is_found(run: Path) -> None:
    """What a run's joules may be rounded by is much for a share, a latency or kWh."""
    for change in (
        lambda record, factor: setattr(record.total, "kwh", record.total.kwh * factor),
        lambda record, factor: setattr(record.devices[0], "update_period_s", record.devices[0].update_period_s * factor),
        lambda record, factor: setattr(
            record.stages["train"].phases["compute"],
            "relative_uncertainty",
            record.stages["train"].phases["compute"].relative_uncertainty * factor,
        ),
    ):
        record = load_record(run)
        change(record, 1 + 2e-5)
        found = record.verify(run)
        assert (found.same, len(found.differences)) == (False, 1)


def test_what_is_not_compared_is_told(run: Path, tmp_path: Path) -> None:
    measure(
        tmp_path / "all",
        1,
        electricity_price=0.3,
        flops_per_sample=1e9,
        wue=1.0,
        embodied_kg=500,
        lifetime_years=4,
        offset_grams=1.0,
    )
    found = load_record(tmp_path / "all").verify()
    assert found.not_compared == [
        "intensity and PUE",
        "cost",
        "water",
        "embodied emissions",
        "offsets",
        "FLOPs",
        "metrics",
        "texts such as names",
    ]
    assert load_record(run).verify(run).not_compared == ["intensity and PUE", "metrics", "texts such as names"]
    record = load_record(run)
    record.stages["train"].cost = 1.0
    assert "cost" in record.verify(run).not_compared
    said = ml_energy("verify", tmp_path / "all", columns=200).stdout
    assert "Not compared, as the raw readings do not have it: intensity and PUE, cost, water, embodied emissions" in said


def test_readings_that_are_named_twice_do_not_count_twice(run: Path) -> None:
    record = load_record(run)
    found = add_records(record, record).verify(run)
    assert (found.same, (found.reason or "").endswith("twice.")) == (False, True)


@pytest.mark.parametrize(("name", "value"), [("pue", 1.0), ("intensity_g_per_kwh", 10.0), ("pue", 0.1)])
def test_a_changed_intensity_or_pue_is_found(run: Path, name: str, value: Any) -> None:
    record = load_record(run)
    setattr(record.carbon, name, value)
    assert record.verify(run).same is False


def test_grams_of_an_intensity_that_changes_are_verified_in_all(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    rows = [f"{(began + timedelta(seconds=5 * i)).isoformat()},{200 + i}" for i in range(-100, 100)]
    (tmp_path / "grid.csv").write_text("\n".join(["time,g_per_kwh", *rows]), encoding="utf-8")
    record = measure(tmp_path / "run", 1, carbon_intensity=tmp_path / "grid.csv", began=began, pue=1.1)
    assert len(record.carbon.intervals) > 1
    assert record.verify().same
    record.total.co2e_grams = (record.total.co2e_grams or 0.0) * 1.01
    assert [each.field for each in record.verify().differences] == ["total.co2e_grams"] * 2


def test_a_run_that_goes_on_after_one_that_was_killed_cannot_be_verified(run: Path) -> None:
    later = measure(run, 1)
    (kept,) = run.glob("energy-????????.json")
    killed = load_record(kept)
    assert add_records(killed, later).verify(run).same
    killed.run.status = "running"
    found = add_records(killed, later).verify(run)
    assert found.same is None
    assert "The process was killed, or goes on" in (found.reason or "")
    killed.raw_readings = []
    assert (add_records(killed, later).verify(run).reason or "").startswith("No raw readings were kept.")


def test_a_changed_last_digit_is_told(run: Path) -> None:
    record = load_record(run)
    record.total.joules = (record.total.joules or 0.0) * (1 + 1e-12)
    found = record.verify(run)
    assert found.same
    assert 0.0 < (found.largest_difference or 0.0) < 1e-11


def test_another_processor_that_rounds_otherwise_finds_the_same(tmp_path: Path, *, full: bool) -> None:
    """The equations of a split multiply what is rounded; a processor that OpenBLAS has no code for leaves it as it is."""
    for starts in range(1, 13 if full else 4):
        measure(tmp_path / str(starts), starts)
    for processor in ("Prescott", "Haswell") if full else ("Prescott",):
        found = ml_energy_process("verify", tmp_path, columns=200, environment={"OPENBLAS_CORETYPE": processor})
        assert found.returncode == 0, found.stdout


def test_what_the_command_says(run: Path) -> None:
    same = ml_energy("verify", run, columns=200)
    assert same.returncode == 0
    assert "energy.json: the same, to the last digit." in same.stdout
    record = load_record(run)
    record.stages["train"].joules = 1.0
    (run / "energy.json").write_bytes(encode_record(record))
    changed = ml_energy("verify", run, columns=200)
    assert changed.returncode == 1
    assert "energy.json: NOT the same." in changed.stdout
    assert "  stages.train.joules: recorded 1.0, reckoned 6" in changed.stdout
    (facts,) = json.loads(ml_energy("verify", run, "--json").stdout)
    assert (facts["run"], facts["result"]["same"]) == (record.run.id, False)
    readings_of(run).unlink()
    missing = ml_energy("verify", run, columns=200)
    assert missing.returncode == 2
    assert "cannot be verified. The raw readings" in missing.stdout
    assert "are missing: keep them beside the record." in missing.stdout


def test_a_record_of_an_earlier_release_cannot_be_verified(run: Path) -> None:
    plain = msgspec.to_builtins(load_record(run))
    del plain["raw_readings"]
    (run / "energy.json").write_bytes(msgspec.json.encode(plain))
    found = load_record(run).verify(run)
    assert found.same is None
    assert found.reason == "The record has no raw readings: measure with raw_readings=True and an output_dir."


def test_a_name_that_leads_elsewhere_is_refused(run: Path) -> None:
    record = load_record(run)
    record.raw_readings[0].file = f"../run/{record.raw_readings[0].file}"
    assert record.verify(run).same is False
    record.raw_readings[0].file = "a\0b"
    assert record.verify(run).same is False
    record.raw_readings[0].file = None
    assert record.verify(run).same is None


def test_a_pipe_in_place_of_the_readings_is_not_waited_for(run: Path) -> None:
    file = readings_of(run)
    file.unlink()
    os.mkfifo(file)
    found = load_record(run).verify(run)
    assert (found.same, (found.reason or "").endswith("it is not a regular file.")) == (None, True)


def test_the_readings_of_another_release_are_not_called_changed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = load_record(run)
    record.stages["train"].joules = 1.0
    monkeypatch.setattr("importlib.metadata.Distribution.version", "99.0")
    found = record.verify(run)
    assert found.same is None
    assert "which measured" in (found.reason or "")


def test_raw_readings_and_a_recording_are_one_or_the_other() -> None:
    with pytest.raises(ConfigurationError, match="leave out recording, or raw_readings"):
        EnergyMeter(recording="raw.jsonl", raw_readings=True)


@pytest.mark.parametrize("options", [{}, {"output_dir": "memory://runs"}], ids=["in memory", "at a URL"])
def test_a_record_that_is_in_no_directory_has_no_raw_readings(options: dict[str, Any]) -> None:
    with EnergyMeter(backends=[steady(100.0)], raw_readings=True, verbose=False, **options) as meter:
        pass
    (kept,) = meter.record.raw_readings
    assert kept.file is None
    assert kept.reason in meter.record.warnings
    found = meter.record.verify()
    assert (found.same, found.reason) == (None, kept.reason)


def test_two_runs_in_one_directory_keep_their_readings(tmp_path: Path) -> None:
    for _ in range(2):
        measure(tmp_path, 1)
    assert len(list(tmp_path.glob("*.readings.jsonl.gz"))) == 2
    verified = ml_energy("verify", tmp_path, columns=200)
    assert (verified.returncode, verified.stdout.count("the same, to the last digit")) == (0, 2)


def run_batches(meter: EnergyMeter, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with meter.batch(samples=4):
            time.sleep(0.002)


def test_a_run_whose_record_is_asked_for_all_the_time_is_the_same(tmp_path: Path) -> None:
    """Fits are then solved while readings come."""
    meter = EnergyMeter(output_dir=tmp_path, raw_readings=True, backends=[steady(100.0)], verbose=False)
    with meter, meter.stage("train"):
        for _ in range(10):
            run_batches(meter, 0.15)
            assert meter.record.run.status == "running"
    found = load_record(tmp_path).verify()
    assert (found.same, found.largest_difference) == (True, 0.0), found
    assert sum(b'"accept"' in line for line in gzip.decompress(readings_of(tmp_path).read_bytes()).splitlines()) > 1


def test_a_run_before_its_first_chunk_is_not_called_changed(tmp_path: Path) -> None:
    with EnergyMeter(output_dir=tmp_path, raw_readings=True, backends=[steady(100.0)], verbose=False) as meter:
        run_batches(meter, 0.1)
        found = meter.record.verify()
        assert (found.same, found.seconds) == (None, None)
        assert found.reason == "The run goes on, or was killed: the figures are those of its last write."
    record = meter.record
    assert record.verify().same
    record.raw_readings[0].chunks, record.raw_readings[0].size, record.raw_readings[0].head = 0, 0, "0" * 64
    readings_of(tmp_path).write_bytes(b"")
    assert record.verify().same is False


def test_readings_that_were_deleted_between_two_starts_are_told(tmp_path: Path) -> None:
    meter = EnergyMeter(output_dir=tmp_path, raw_readings=True, backends=[steady(100.0)], verbose=False)
    with meter:
        run_batches(meter, 0.05)
    readings_of(tmp_path).unlink()
    with meter:
        run_batches(meter, 0.05)
    found = meter.record.verify()
    assert (found.same, "it was deleted or cut since the start before" in (found.reason or "")) == (None, True)
    assert found.reason in meter.record.warnings
    assert not list(tmp_path.glob("*.gz"))


def test_a_full_disk_leaves_a_record_that_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        meter = EnergyMeter(output_dir=disk, raw_readings=True, backends=[steady(100.0)], verbose=False)
        with meter, meter.stage("train"):
            fill(disk)
            run_batches(meter, 0.3)
        record = meter.record
        assert record.run.status == "completed"
        assert record.total.joules
        (kept,) = record.raw_readings
        assert kept.reason == "The recording ends early: No space left on device."
        found = record.verify()
        assert (found.same, found.reason) == (None, kept.reason)


KILLED = """
import sys, time
from loads import steady
from ml_energy_callbacks import EnergyMeter
with EnergyMeter(output_dir=sys.argv[1], raw_readings=True, backends=[steady(100.0)], verbose=False) as meter:
    with meter.stage("train"):
        while True:
            with meter.batch(samples=4):
                time.sleep(0.0001)
"""


def test_a_killed_run_leaves_whole_chunks(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("PYTHONSAFEPATH", None)
    with subprocess.Popen([sys.executable, "-c", INTERRUPTIBLE + KILLED, str(tmp_path)], env=environment) as process:
        deadline = time.monotonic() + 60
        while not any(file.stat().st_size for file in tmp_path.glob("*.gz")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    record = load_record(tmp_path)
    assert record.run.status == "running"
    found = record.verify()
    assert found.same is None
    assert "The run goes on, or was killed" in (found.reason or "")
    assert found.seconds
    file = readings_of(tmp_path)
    assert replay_file(file).stages["train"].batches
    with file.open("ab") as end:
        end.write(file.read_bytes()[:50])  # as where it was killed within a write
    assert replay_file(file).warnings[-1] == "The last chunk of the recording is not complete and was left out."
    assert record.verify().seconds == found.seconds


def test_a_file_that_reaches_its_bound_ends_with_a_whole_chunk(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = Recorder(tmp_path / "raw.jsonl.gz", said.append, lambda _: (None, "other"), most_bytes=3000)
    recorder.start(
        10**9,
        outside_ns=10**9,
        run_id="a",
        started_at="2026-01-01T00:00:00+00:00",
        framework="none",
        sample_interval=0.05,
        devices=[],
        incomplete=False,
    )
    rng = random.Random(1)
    deadline = time.monotonic() + 60
    while not said and time.monotonic() < deadline:
        for _ in range(1000):
            recorder.add_event(rng.randrange(10**9, 10**12), ("switch", rng.randrange(10**12), 0, 0, None, None))
        time.sleep(0.1)
    recorder.finish()
    assert said == [f"The recording {recorder.path} ends early: it has reached 0.003 MB. Figures of the run are not affected."]
    assert recorder.path.stat().st_size == recorder.seal.size <= 3000
