"""The run file: whole or refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import ml_energy

from ml_energy_callbacks import EnergyMeter, LoopDescription, load_record
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.fleet.reading import read_runs
from ml_energy_callbacks.record.epochs import add_epoch
from ml_energy_callbacks.record.find import RecordFile, find_records
from ml_energy_callbacks.record.schema import EpochRecord


def epoch(stage: str, index: int, joules: float | None = 1.5) -> EpochRecord:
    return EpochRecord(stage=stage, index=index, joules=joules, seconds=2.0, samples=10, co2e_grams=0.5)


def test_of_many_epochs_those_of_a_stage_that_follow_each_other_are_told_together_and_nothing_is_lost() -> None:
    epochs: list[EpochRecord] = []
    for i in range(10_000):
        for stage in ("validate", "train"):
            epochs = add_epoch(epochs, epoch(stage, i, None if (stage, i) == ("train", 1) else 1.5))
    assert 1024 <= len(epochs) <= 2048
    for stage in ("validate", "train"):
        own = [e for e in epochs if e.stage == stage]
        assert sum(e.epochs for e in own) == 10_000
        assert sum(e.samples or 0 for e in own) == 100_000
        assert sum(e.seconds for e in own) == 20_000
        ends = [e.index + e.epochs for e in own]
        assert [e.index for e in own] == [0, *ends[:-1]]
        assert [e.joules is None for e in own] == [stage == "train", *[False] * (len(own) - 1)]
        assert sum(e.joules or 0 for e in own[1:]) == 1.5 * (10_000 - own[0].epochs)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with EnergyMeter(output_dir=tmp_path, verbose=False) as meter, meter.stage("train"), meter.batch(3):
        pass
    return tmp_path / "energy.json"


def test_the_contracts_fields_are_there(file: Path) -> None:
    found = json.loads(file.read_text())
    assert found["schema_version"] == 1
    assert {"id", "started_at", "ended_at", "status", "framework", "hostnames", "world_size"} <= found["run"].keys()
    assert {"joules", "kwh", "seconds", "co2e_grams", "cost"} <= found["total"].keys()
    assert {"intensity_g_per_kwh", "location", "source", "data_year", "assumed", "pue"} <= found["carbon"].keys()
    assert {"joules", "seconds", "batches", "samples", "joules_per_sample", "mean_watts"} <= found["stages"]["train"].keys()
    assert {"phases", "devices", "co2e_grams", "cost"} <= found["stages"]["train"].keys()
    device = found["devices"][0]
    assert {"id", "name", "kind", "backend", "method", "provenance", "relative_uncertainty"} <= device.keys()
    assert {"update_period_s", "joules", "missing_s"} <= device.keys()
    assert load_record(file) == load_record(file.parent)


def test_tags_and_model_are_recorded_and_a_record_without_them_is_read(tmp_path: Path) -> None:
    meter = EnergyMeter(backends=[], tags={"team": "vision"}, output_dir=tmp_path, verbose=False).start(
        LoopDescription(model="Net")
    )
    meter.stop()
    run = load_record(tmp_path).run
    assert (run.tags, run.model) == ({"team": "vision"}, "Net")
    found = json.loads((tmp_path / "energy.json").read_text())
    del found["run"]["tags"], found["run"]["model"]
    (tmp_path / "energy.json").write_text(json.dumps(found))
    run = load_record(tmp_path).run
    assert (run.tags, run.model) == ({}, None)


def test_fields_of_a_later_release_are_no_obstacle(file: Path) -> None:
    found = json.loads(file.read_text())
    found["news"] = 1
    file.write_text(json.dumps(found))
    assert load_record(file).stages["train"].samples == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a run record"),
        ("{", "is not a run record"),
        ("[1, 2]", "is not a run record"),
        ('{"a": 1}', "is not a run record"),
        ('{"schema_version": 99}', "schema version 99; this release reads version 1"),
        ('{"schema_version": 1, "run": 5}', "is not a complete run record"),
    ],
)
def test_a_broken_or_foreign_file_is_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "energy.json").write_text(text)
    with pytest.raises(RecordError, match=message) as caught:
        load_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_torn_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(RecordError, match="is not a run record"):
        load_record(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no run record at"):
        load_record(tmp_path / "nothing")


def test_a_pipe_beside_a_record_is_not_waited_for(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    os.mkfifo(tmp_path / "other" / "energy.json")
    outcome = ml_energy("report", str(file), str(tmp_path / "other"), columns=400)
    assert outcome.returncode == 0, outcome.stderr
    assert f"record: 1 ({tmp_path / 'other' / 'energy.json'})" in outcome.stdout


def test_a_directory_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    told: list[OSError] = []
    assert find_records(tmp_path / "gone", told.append) == []
    assert [error.filename for error in told] == [str(tmp_path / "gone")]


def test_threads_that_load_the_first_records_at_once_do_not_hurt_each_other(file: Path, *, full: bool) -> None:
    program = """
import sys
from concurrent.futures import ThreadPoolExecutor
sys.setswitchinterval(1e-6)
from ml_energy_callbacks import load_record
with ThreadPoolExecutor(16) as pool:
    assert len({load.run.id for load in pool.map(load_record, [sys.argv[1]] * 64)}) == 1
"""
    for _ in range(5 if full else 2):
        subprocess.run([sys.executable, "-c", program, str(file)], check=True, timeout=60)


IMPOSSIBLE = [
    (("total", "joules"), "-5.0"),
    (("total", "joules"), "1e308"),
    (("total", "joules"), "1e400"),
    (("total", "joules"), "Infinity"),
    (("total", "joules"), "NaN"),
    (("total", "joules"), "1e15"),
    (("total", "kwh"), "-1"),
    (("total", "seconds"), "-0.5"),
    (("total", "co2e_grams"), "-1e3"),
    (("total", "cost"), "-1"),
    (("stages", "train", "joules"), "1e18"),
    (("stages", "train", "seconds"), "1e300"),
    (("stages", "train", "samples"), "-3"),
    (("stages", "train", "batches"), "-1"),
    (("stages", "train", "samples"), "9223372036854775807"),
    (("stages", "train", "devices"), '{"cpu-model:0": -100}'),
    (("devices", 0, "joules"), "-100"),
    (("devices", 0, "missing_s"), "-1"),
    (("carbon", "intensity_g_per_kwh"), "1e308"),
    (("epochs",), '[{"stage":"train","index":0,"joules":1,"seconds":-1,"samples":1,"co2e_grams":1}]'),
]


@pytest.mark.parametrize(("place", "value"), IMPOSSIBLE)
def test_an_impossible_figure_is_refused_in_one_sentence(file: Path, place: tuple[str | int, ...], value: str) -> None:
    content = json.loads(file.read_text())
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = "the figure"
    file.write_text(json.dumps(content).replace('"the figure"', value))
    with pytest.raises(RecordError, match=r"^\S+energy\.json is not a.* run record: .*\.$"):
        load_record(file)


def test_what_rounding_leaves_below_zero_is_read(file: Path) -> None:
    content = json.loads(file.read_text())
    content["stages"]["train"]["sampled_joules"] = -1e-12
    content["stages"]["train"]["above_idle_joules"] = -5.0  # less than at idle
    file.write_text(json.dumps(content))
    assert load_record(file).stages["train"].sampled_joules == -1e-12


@pytest.mark.parametrize(
    "command",
    [
        ["report"],
        ["export", "--format", "sci-json"],
        ["lifecycle", "--per-day", "1", "--days", "1", "--train", "RECORD", "--predict"],
    ],
    ids=lambda words: words[0],
)
def test_no_command_reads_an_impossible_figure(file: Path, command: list[str]) -> None:
    content = json.loads(file.read_text())
    content["total"]["joules"] = -1e9
    file.write_text(json.dumps(content))
    outcome = ml_energy(*(str(file) if word == "RECORD" else word for word in command), file, columns=400)
    assert outcome.returncode == 2
    assert "Expected `float`" in outcome.stderr
    assert len(outcome.stderr.splitlines()) <= 2


def test_a_fleet_leaves_out_a_run_with_an_impossible_figure(file: Path, tmp_path: Path) -> None:
    content = json.loads(file.read_text())
    content["total"]["joules"] = -1e9
    other = tmp_path / "other" / "energy.json"
    other.parent.mkdir()
    other.write_text(json.dumps(content))
    runs = read_runs([RecordFile(str(path), path, path.read_bytes) for path in (file, other)])
    assert [row.joules == load_record(file).total.joules for row in runs.rows] == [True]
    assert runs.broken == [str(other)]
