"""Hostile texts: what a terminal, a spreadsheet or a document would run or refuse does not get there."""

import csv
import io
import json
import logging
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from command import ml_energy
from loads import steady

from ml_energy_callbacks import EnergyMeter, load_record
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.fleet import read_runs
from ml_energy_callbacks.inference.plot import plot_comparison
from ml_energy_callbacks.inference.results import Comparison, Interval, ModelCost
from ml_energy_callbacks.inference.table import render_comparison
from ml_energy_callbacks.record.find import find_files
from ml_energy_callbacks.record.schema import RunRecord

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
NOT_YAML = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML 1.2 does not allow (5.1)."""

HOSTILE = "=cmd|'/c calc'!A1\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\ufffe\u202egnp\r"
PASSWORD = "hunter2"  # noqa: S105 - made up


def poison(record: dict[str, Any]) -> None:
    """Put the hostile text wherever a record has a text that somebody else chooses."""
    run, carbon = record["run"], record["carbon"]
    run |= {"framework": HOSTILE, "model": HOSTILE, "reason": HOSTILE, "hostnames": [HOSTILE], "tags": {HOSTILE: HOSTILE}}
    carbon |= {"location": HOSTILE, "source": HOSTILE, "note": HOSTILE, "assumed": False}
    record["warnings"] = [HOSTILE]
    record["nodes"] = [{"hostname": HOSTILE, "ranks": [0], "devices": [], "joules": None}] * 2
    for device in record["devices"]:
        device |= {"name": HOSTILE, "note": HOSTILE}
    for stage in record["stages"].values():
        for phase in stage["phases"].values():
            phase["reason"] = HOSTILE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two records full of hostile texts."""
    path = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        meter = EnergyMeter(backends=[steady(100.0)], location="FRA", output_dir=path / name, verbose=False)
        with meter, meter.stage("predict"), meter.batch(samples=8):
            sum(range(300_000))
        record = json.loads((path / name / "energy.json").read_text())
        poison(record)
        (path / name / "energy.json").write_text(json.dumps(record))
    return path


@pytest.mark.parametrize(
    "command",
    [
        ("report", "a"),
        ("report", "a", "--json"),
        ("report", "a", "b", "--by", "model", "--by", "tag", "--by", "host", "--by", "framework"),
        ("report", "a", "b", "--by", "model", "--json"),
        ("report", "a", "b", "--by", "tag:none"),
        ("lifecycle", "--train", "a", "--predict", "b", "--per-day", "1", "--days", "1"),
        ("export", "a", "--format", "codecarbon-csv"),
        ("export", "a", "--format", "model-card"),
        ("export", "a", "--format", "sci-json"),
    ],
)
def test_no_control_character_of_a_record_reaches_a_terminal(folder: Path, command: tuple[str, ...]) -> None:
    ended = ml_energy(*command, folder=folder)
    assert ended.returncode == (2 if "tag:none" in command else 0), ended.stderr
    assert not CONTROLS.search(ended.stdout + ended.stderr)


def test_json_keeps_hostile_text_whole_behind_escapes(folder: Path) -> None:
    found = json.loads(ml_energy("report", "a", "--json", folder=folder).stdout)
    assert (found["run"]["model"], found["run"]["tags"]) == (HOSTILE, {HOSTILE: HOSTILE})


def test_no_cell_of_a_csv_file_is_a_formula(folder: Path) -> None:
    assert ml_energy("report", "a", "b", "--csv", "runs.csv", folder=folder).returncode == 0
    exported = ml_energy("export", "a", "--format", "codecarbon-csv", folder=folder).stdout
    for text in ((folder / "runs.csv").read_text(), exported):
        assert not CONTROLS.search(text)
        for row in csv.DictReader(io.StringIO(text)):
            for cell in row.values():
                assert not cell.startswith(("=", "+", "@", "-", "\t", "\r")) or float(cell)
    rows = read_runs(find_files([str(folder)], pytest.fail)).rows
    assert {row.model for row in rows} == {HOSTILE}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\uff1d"])
def test_each_start_of_a_formula_is_marked_as_text(folder: Path, start: str, tmp_path: Path) -> None:
    record = json.loads((folder / "a" / "energy.json").read_text())
    record["run"] |= {"model": f"{start}1+1", "framework": "none"}
    record["total"]["co2e_grams"] = 1e-9
    (tmp_path / "energy.json").write_text(json.dumps(record))
    assert ml_energy("report", tmp_path, "--csv", tmp_path / "runs.csv").returncode == 0
    (row,) = csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text()))
    assert row["model"].startswith("'")
    assert (row["framework"], float(row["co2e_grams"])) == ("none", 1e-9)


def test_a_model_card_with_hostile_names_is_valid_yaml(folder: Path) -> None:
    card = ml_energy("export", "a", "--format", "model-card", folder=folder).stdout
    assert not NOT_YAML.search(card)
    (used,) = re.findall(r"^  hardware_used: (.*)$", card, re.MULTILINE)
    assert json.loads(used) == HOSTILE  # in double quotes, YAML 1.2 takes what JSON does


def test_a_picture_with_hostile_names_is_valid_xml(tmp_path: Path) -> None:
    one = Interval(mean=1.0, half_width=0.1)
    cost = ModelCost(
        name=HOSTILE + "$\\frac$",
        accuracy=0.5,
        wh_per_1000_samples=None,
        size_bytes=None,
        pareto=True,
        joules_per_sample=one,
        joules_per_sample_above_idle=None,
        samples_per_second=one,
        latency=None,
        repeats=3,
        state="measured",
        note=None,
    )
    found = Comparison(
        models=[cost],
        idle_watts=None,
        relative_uncertainty=0.1,
        provenance="measured",
        devices=[HOSTILE],
        relative_width=0.05,
        seconds=1.0,
        differences=[],
        warnings=[HOSTILE],
    )
    plot_comparison(found, tmp_path / "cost.svg")
    ET.parse(tmp_path / "cost.svg")  # noqa: S314 - our own file
    assert render_comparison(found)


def test_warnings_reach_the_log_without_control_characters(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ml_energy_callbacks"), EnergyMeter(backends=[], location="FRA") as meter:
        meter.warn(f"A device is called {HOSTILE} at ftp://me:{PASSWORD}@host/x?sig={PASSWORD}.")
    for text in (caplog.text, *meter.record.warnings):
        assert not CONTROLS.search(text)
        assert PASSWORD not in text
    assert "ftp://***@host/x?***" in meter.record.warnings[-1]


def test_a_flood_of_warnings_is_bounded_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ml_energy_callbacks"), EnergyMeter(backends=[], location="FRA") as meter:
        for i in range(20_000):
            meter.warn(f"Batch {i} is odd: {'x' * 5000}")
    warnings = meter.record.warnings
    assert len(warnings) == 201
    assert max(map(len, warnings)) <= 1000
    assert re.fullmatch(r"Warnings beyond the first 200: 19,80\d, repeated ones included\.", warnings[-1])
    assert len(caplog.records) == 201


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def ended_by(error: Exception) -> RunRecord:
    meter = EnergyMeter(backends=[], location="FRA", verbose=False)
    with pytest.raises(type(error)), meter:
        raise error
    return meter.record


def test_the_text_of_an_exception_is_cut_and_shows_no_password() -> None:
    reason = ended_by(OSError(f"postgres://me:{PASSWORD}@db/x is gone: {'x' * 100_000}")).run.reason
    assert reason is not None
    assert reason.startswith("OSError: postgres://***@db/x is gone: xxx")
    assert len(reason) <= 1000


def test_an_exception_without_a_readable_text_ends_the_run_as_failed() -> None:
    run = ended_by(UnspeakableError()).run
    assert (run.status, run.reason) == ("failed", "UnspeakableError: its message cannot be read")


@pytest.mark.parametrize("url", [f"nosuch://me:{PASSWORD}@host/run", f"nosuch://me:{PASSWORD}/@host/run?sig={PASSWORD}"])
def test_no_error_shows_the_password_of_a_url(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError) as refused:
        EnergyMeter(backends=[], location="FRA", output_dir=url).start()
    with pytest.raises(ConfigurationError) as unread:
        load_record(url)
    listed = ml_energy("report", url)
    assert listed.returncode == 2
    for text in (str(refused.value), str(unread.value), listed.stderr, caplog.text):
        assert PASSWORD not in text


def test_neither_warning_nor_spare_file_shows_the_password_of_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import fsspec  # noqa: PLC0415 - an extra
    from fsspec.implementations.memory import MemoryFileSystem  # noqa: PLC0415 - the same

    class Full(MemoryFileSystem):  # type: ignore[misc]
        protocol = "full"
        full = False

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + path.rpartition("@")[2]

        def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
            if Full.full:
                message = f"cannot write full://me:{PASSWORD}@host{path}"
                raise PermissionError(message)
            super().pipe_file(path, value, **kwargs)

    fsspec.register_implementation("full", Full, clobber=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with EnergyMeter(backends=[], location="FRA", output_dir=f"full://me:{PASSWORD}@host/run") as meter:
        Full.full = True
    assert isinstance(meter.record_path, Path)
    for text in (meter.record_path.read_text(), caplog.text, *meter.record.warnings):
        assert PASSWORD not in text
    assert "full://***@host/run/energy.json could not be written" in caplog.text


def test_an_error_quotes_no_more_of_a_file_than_a_line(tmp_path: Path) -> None:
    (tmp_path / "energy.json").write_text(json.dumps({"schema_version": 1, "run": 5}))
    named = tmp_path / ("\x1b[2J" + "n" * 200)
    named.mkdir()
    (named / "energy.json").write_text("{}")
    with pytest.raises(RecordError) as caught:
        load_record(named)
    assert not CONTROLS.search(str(caught.value))
