"""The report of a run on the terminal: its table, its notes and its details."""

import dataclasses
import io
import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import pytest
from command import ml_energy, ml_energy_process
from msgspec.structs import replace
from rich.console import Console

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.record.load import encode_record
from ml_energy_callbacks.record.schema import LatencyRecord
from ml_energy_callbacks.report.notes import last_warnings, latency_text
from ml_energy_callbacks.report.quantities import column, money_column, time_column
from ml_energy_callbacks.report.table import render
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter

ODD = "<script>alert(1)</script>[bold red]\x1b[31m\x1b]0;x\x07"


@pytest.fixture(scope="module")
def measured() -> RunRecord:
    """A run on two GPUs."""
    clock = ManualClock()
    counters = [ScriptedCounter(PowerCurve(clock, watts), clock, period_s=0.02) for watts in (300.0, 280.0)]
    for i, counter in enumerate(counters):
        counter.device = dataclasses.replace(counter.device, id=f"nvml:GPU-{i}")
    meter = SteppedMeter(clock, backends=[ScriptedBackend(counters)], verbose=False, location="FRA", electricity_price=0.3)
    with meter:
        for stage, samples in (("train", 64), ("validate", 32)):
            with meter.stage(stage):  # type: ignore[arg-type]
                for _ in range(20):
                    clock.advance(0.02)
                    with meter.batch(samples=samples):
                        clock.advance(0.1)
    return meter.record


@pytest.fixture
def record(measured: RunRecord) -> RunRecord:
    return deepcopy(measured)


def shown(record: RunRecord, width: int = 80, *, verbose: bool = False) -> str:
    console = Console(width=width, file=io.StringIO(), markup=False, emoji=False)
    console.print(render(record, verbose=verbose))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_report_begins_with_the_headline(record: RunRecord) -> None:
    lines = shown(record, 100).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["Energy", "Train", "Valid"]


def test_each_column_has_one_unit_and_aligned_decimals(record: RunRecord) -> None:
    lines = shown(record, 100).splitlines()
    unit_line = next(line for line in lines if line.split()[:1] == ["stage"])
    assert "kJ" in unit_line
    rows = [next(line for line in lines if line.startswith(f" {name}")) for name in ("train", "validate", "total")]
    points = [[i for i, character in enumerate(row) if character == "."] for row in rows]
    assert set(points[2]) <= set(points[0])
    assert points[0] == points[1]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_width_breaks_a_number(record: RunRecord, width: int) -> None:
    wide, text = shown(record, 300), shown(record, width)
    assert max(map(len, text.splitlines())) <= width
    whole = {word for line in wide.splitlines() if line.startswith((" train", " total")) for word in line.split()}
    for line in text.splitlines():
        if line.startswith((" train", " total")):
            assert set(line.split()) <= whole


def test_details_are_shown_when_asked(record: RunRecord) -> None:
    for word in ("Phases", "Devices", "nvml:GPU-0", "95 % interval", "Carbon: "):
        assert word not in shown(record)
        assert word in shown(record, verbose=True)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_odd_names_are_texts_and_nothing_else(record: RunRecord, width: int) -> None:
    record.run = replace(record.run, model=ODD, framework=ODD, hostnames=[ODD], status="failed", reason=ODD)
    record.devices[0].id = record.devices[0].name = ODD
    record.warnings = [ODD]
    text = shown(record, width, verbose=True)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "<script>alert(1)</script>[bold red]" in text.replace("\n", "").replace(" ", "").replace("[boldred]", "[bold red]")


def test_a_run_without_joules_is_shown_as_unknown(record: RunRecord) -> None:
    for stage in record.stages.values():
        stage.joules = stage.joules_per_sample = stage.co2e_grams = stage.mean_watts = stage.provenance = stage.cost = None
        stage.phases = {}
    record.total = replace(record.total, joules=None, kwh=None, co2e_grams=None, cost=None, provenance=None)
    text = shown(record, verbose=True)
    assert "Energy  unknown" in text
    assert "Phases" not in text
    total = next(line for line in text.splitlines() if line.startswith(" total"))
    assert "0 " not in total.replace(total.split()[1], "")


def test_a_report_has_the_ascii_of_its_terminal(record: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "energy.json").write_bytes(encode_record(record))
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "NO_COLOR": "1"}
    done = ml_energy_process("report", "-v", tmp_path, environment=ascii_only)
    assert done.returncode == 0, done.stderr
    assert "+/-" in done.stdout
    assert "\\x" not in done.stdout
    assert done.stdout.isascii()


def test_no_color_is_obeyed(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def escapes() -> str:
        console = Console(width=80, file=io.StringIO(), force_terminal=True)
        console.print(render(record))
        return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[3" not in escapes()  # no colour; bold is none


def test_a_record_of_the_future_is_a_sentence(record: RunRecord, tmp_path: Path) -> None:
    record.schema_version = 99
    (tmp_path / "energy.json").write_bytes(encode_record(record))
    done = ml_energy("report", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "schema version 99" in done.stderr


def test_a_record_of_an_earlier_release_is_shown(record: RunRecord, tmp_path: Path) -> None:
    facts = json.loads(encode_record(record))
    for phase in (phase for stage in facts["stages"].values() for phase in stage["phases"].values()):
        del phase["low_joules"], phase["high_joules"]
    for device in facts["devices"]:
        del device["latency_s"], device["latency_source"], device["idle_watts"]
    for epoch in facts["epochs"]:
        del epoch["sampling_joules"]
    del facts["total"]["lower_bound"], facts["run"]["record_path"], facts["carbon"]["relative_uncertainty"]
    (tmp_path / "energy.json").write_text(json.dumps(facts))
    done = ml_energy("report", "-v", tmp_path, columns=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Energy  2.8")
    assert "compute" in done.stdout


def test_devices_of_one_name_are_described_once(record: RunRecord) -> None:
    lines = shown(record, verbose=True).splitlines()
    assert sum(record.devices[0].name in line for line in lines) == 1
    assert any(line.startswith("2 devices: ") for line in lines)


def test_a_note_about_a_device_stands_once_with_its_last_figures(record: RunRecord) -> None:
    record.warnings = [
        "nvml:GPU-0 could not be read for 1.0 of 10.0 s; its energy then is not included.",
        "nvml:GPU-1 could not be read for 2.0 of 10.0 s; its energy then is not included.",
        "Epoch 3 had no samples.",
        "nvml:GPU-0 could not be read for 4.0 of 1,020.0 s; its energy then is not included.",
        "Epoch 4 had no samples.",
        "No location set: using the world average of 475 g CO2e/kWh. Set location='FRA'.",
    ]
    assert last_warnings(record) == [
        "nvml:GPU-0 could not be read for 4.0 of 1,020.0 s; its energy then is not included.",
        "nvml:GPU-1 could not be read for 2.0 of 10.0 s; its energy then is not included.",
        "Epoch 3 had no samples.",
        "Epoch 4 had no samples.",
    ]


@pytest.mark.parametrize(
    ("batches", "text"),
    [
        (4, ""),
        (5, "p50 2.00 ms (5 batches)"),
        (20, "p50 2.00 ms, p95 123 ms (20 batches)"),
        (1000, "p50 2.00 ms, p95 123 ms, p99 1.50 s (1,000 batches)"),
    ],
)
def test_percentiles_are_of_enough_batches(batches: int, text: str) -> None:
    assert latency_text(LatencyRecord(batches=batches, p50_s=0.002, p95_s=0.123, p99_s=1.5)) == text


@pytest.mark.parametrize(
    ("values", "unit", "texts"),
    [
        ([], "J", []),
        ([None], "J", ["-"]),
        ([0.0, None], "J", ["0", "-"]),
        ([2270.0, 182.0, 3.0], "kJ", ["2.270", "0.182", "0.003"]),
        ([2270.0, 1952.0], "kJ", ["2.27", "1.95"]),
        ([0.107, 0.0001], "mJ", ["107.0", "0.1"]),
        ([5.1, 0.768, 0.0004], "J", ["5.100", "0.768", "<0.001"]),
        ([999_600.0], "MJ", ["1.00"]),
        ([-3.0, 2.0], "J", ["-3.00", "2.00"]),
        ([120.0, -0.01], "J", ["120.0", ">-0.1"]),
    ],
)
def test_a_column_has_one_prefix(values: Sequence[float | None], unit: str, texts: Sequence[str]) -> None:
    assert column(values, "J") == (unit, texts)


def test_a_column_of_times_is_in_seconds_or_hours() -> None:
    assert time_column([0.25, 0.5]) == ("ms", ["250", "500"])
    assert time_column([98.25, None]) == ("s", ["98.2", "-"])
    assert time_column([36_000.0, 3600.0]) == ("h", ["10.0", "1.0"])


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([12.345, 0.001], ["12.35", "<0.01"]),
        ([0.0012, 0.0001], ["0.0012", "0.0001"]),
        ([None, 0.0], ["-", "0.00"]),
    ],
)
def test_a_column_of_money_has_two_places_or_more(values: Sequence[float | None], texts: Sequence[str]) -> None:
    assert money_column(values) == texts
