"""A run in other programs' formats, read back by what reads them."""

import ast
import csv
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ml_energy_callbacks import EnergyMeter, load_record
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.export import Format, export
from ml_energy_callbacks.records import RunRecord
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter

KWH = 3.6e6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    counter = ScriptedCounter(PowerCurve(monotonic_clock, 100.0), monotonic_clock, period_s=0.02)
    meter = EnergyMeter(
        backends=[ScriptedBackend([counter])], location="aws:eu-west-3", pue=1.2, output_dir=path, verbose=False
    )
    with meter, meter.stage("predict"):
        for _ in range(20):
            with meter.batch(samples=8):
                sum(range(300_000))
    return path


@pytest.fixture(scope="module")
def record(folder: Path) -> RunRecord:
    return load_record(folder)


def test_codecarbons_columns_are_those_of_its_release() -> None:
    # Read, not imported: importing codecarbon looks for hardware.
    folder = importlib.util.find_spec("codecarbon").submodule_search_locations[0]  # type: ignore[union-attr,index]
    source = Path(folder, "output_methods", "emissions_data.py").read_text(encoding="utf-8")
    (data,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "EmissionsData")
    names = [node.target.id for node in data.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    assert export(_empty(), Format.CODECARBON_CSV).splitlines()[0].split(",") == names


def _empty() -> RunRecord:
    with EnergyMeter(backends=[], carbon_intensity=0, verbose=False) as meter:
        pass
    return meter.record


def test_codecarbons_csv_tells_the_runs_figures(record: RunRecord) -> None:
    table = pd.read_csv(io.StringIO(export(record, Format.CODECARBON_CSV)))
    row = table.iloc[0]
    total, kind = record.total, record.devices[0].kind
    assert len(table) == 1
    assert row["emissions"] * 1000 == pytest.approx(total.co2e_grams)
    assert row["energy_consumed"] == pytest.approx(total.kwh)
    assert row["duration"] == pytest.approx(total.seconds)
    assert row["emissions_rate"] == pytest.approx(row["emissions"] / row["duration"])
    assert row[f"{kind}_energy"] * KWH == pytest.approx(total.joules)
    assert row[f"{kind}_power"] == pytest.approx(100, rel=0.1)
    assert (row["on_cloud"], row["cloud_provider"], row["cloud_region"], row["pue"]) == ("Y", "aws", "eu-west-3", 1.2)
    assert (row["country_iso_code"], row["country_name"]) == ("FRA", "France")
    # What is not known is empty, never 0.
    other = "gpu" if kind == "cpu" else "cpu"
    for column in (f"{other}_energy", f"{other}_power", "ram_energy", "water_consumed", "longitude", "wue"):
        assert pd.isna(row[column]), column


@pytest.mark.parametrize(
    ("location", "country", "name", "region"),
    [("FRA", "FRA", "France", ""), ("US-VA", "USA", "United States", "US-VA"), ("SE3", "SWE", "Sweden", "SE3")],
)
def test_the_place_is_told_in_codecarbons_words(location: str, country: str, name: str, region: str) -> None:
    with EnergyMeter(backends=[], location=location, verbose=False) as meter:
        pass
    (row,) = csv.DictReader(io.StringIO(export(meter.record, Format.CODECARBON_CSV)))
    assert (row["country_iso_code"], row["country_name"], row["region"], row["on_cloud"]) == (country, name, region, "N")
    assert (row["emissions"], row["energy_consumed"]) == ("", "")


def test_a_model_card_holds_grams_and_where_they_come_from(record: RunRecord) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads it back")
    block = yaml.safe_load(export(record, Format.MODEL_CARD))["co2_eq_emissions"]
    assert block["emissions"] == pytest.approx(record.total.co2e_grams, abs=1e-6)
    assert block["geographical_location"] == "aws:eu-west-3"
    assert "kWh measured" in block["source"]
    assert "PUE 1.2" in block["source"]
    assert block["hardware_used"] == record.devices[0].name


def test_a_score_is_energy_times_intensity_for_each_sample(record: RunRecord) -> None:
    (found,) = json.loads(export(record, Format.SCI_JSON))
    stage = record.stages["predict"]
    assert stage.samples == 160
    assert (found["stage"], found["units"], found["embodied_g"]) == ("predict", 160, None)
    assert found["operational_g"] == pytest.approx(found["energy_kwh"] * found["intensity_g_per_kwh"])
    assert found["intensity_g_per_kwh"] == pytest.approx(record.carbon.intensity_g_per_kwh)
    assert found["sci_g_per_1000_units"] == pytest.approx(stage.co2e_grams / 160 * 1000)  # type: ignore[operator]


def test_the_machines_making_is_part_of_the_score(tmp_path: Path) -> None:
    counter = ScriptedCounter(PowerCurve(monotonic_clock, 100.0), monotonic_clock, period_s=0.02)
    meter = EnergyMeter(
        backends=[ScriptedBackend([counter])],
        carbon_intensity=100,
        embodied_kg=1000,
        lifetime_years=4,
        wue=1.8,
        offset_grams=5,
        output_dir=tmp_path,
        verbose=False,
    )
    with meter, meter.stage("predict"), meter.batch(samples=10):
        sum(range(3_000_000))
    record = load_record(tmp_path)
    carbon, stage = record.carbon, record.stages["predict"]
    per_second = 1e6 / (4 * 365.25 * 86400)
    assert carbon.embodied_grams == pytest.approx(per_second * record.total.seconds)
    assert carbon.water_litres == pytest.approx(record.total.joules / KWH * 1.8)  # type: ignore[operator]
    assert record.total.co2e_grams == pytest.approx(record.total.joules / KWH * 100)  # type: ignore[operator]
    (found,) = json.loads(export(record, Format.SCI_JSON))
    assert found["embodied_g"] == pytest.approx(per_second * stage.seconds)
    assert found["sci_g_per_unit"] == pytest.approx((found["operational_g"] + found["embodied_g"]) / 10)
    (row,) = csv.DictReader(io.StringIO(export(record, Format.CODECARBON_CSV)))
    assert float(row["water_consumed"]) == pytest.approx(carbon.water_litres)
    shown = subprocess.run(
        [sys.executable, "-c", "from ml_energy_callbacks.cli import main; main()", "report", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "of the machine's making fall to the run's time" in shown
    assert "Offsets of 5 g CO2e were named; nothing is subtracted for them." in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"wue": -1}, "wue is -1; give litres per kWh"),
        ({"embodied_kg": 1000}, "embodied_kg and lifetime_years go together"),
        ({"embodied_kg": -1, "lifetime_years": 4}, "embodied_kg is -1; give kg CO2e"),
        ({"embodied_kg": 1000, "lifetime_years": 0}, "lifetime_years is 0; give the years"),
        ({"offset_grams": float("nan")}, "offset_grams is nan; give g CO2e"),
    ],
)
def test_impossible_figures_of_a_site_are_refused(options: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        EnergyMeter(**options)  # type: ignore[arg-type]


def test_what_a_run_does_not_know_is_refused() -> None:
    record = _empty()
    with pytest.raises(RecordError, match="emissions are not known"):
        export(record, Format.MODEL_CARD)
    with pytest.raises(RecordError, match="No stage of the run has known samples"):
        export(record, Format.SCI_JSON)


def test_the_command_writes_each_format(folder: Path) -> None:
    for form in Format:
        command = [
            sys.executable,
            "-c",
            "from ml_energy_callbacks.cli import main; main()",
            "export",
            str(folder),
            "--format",
            form,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == export(load_record(folder), form)
