"""A run in other programs' formats, read back by what reads them."""

import csv
import io
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command import ml_energy
from loads import steady
from msgspec.structs import replace

from ml_energy_callbacks import EnergyMeter, load_record
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.export import Format, export

KWH = 3.6e6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    meter = EnergyMeter(backends=[steady(100.0)], location="aws:eu-west-3", pue=1.2, output_dir=path, verbose=False)
    with meter, meter.stage("predict"):
        for _ in range(20):
            with meter.batch(samples=8):
                sum(range(300_000))
    return path


@pytest.fixture(scope="module")
def record(folder: Path) -> RunRecord:
    return load_record(folder)


def _empty() -> RunRecord:
    with EnergyMeter(backends=[], carbon_intensity=0, verbose=False) as meter:
        pass
    return meter.record


def test_codecarbons_csv_tells_the_runs_figures(record: RunRecord) -> None:
    (texts,) = csv.DictReader(io.StringIO(export(record, Format.CODECARBON_CSV)))
    row = {name: float(text) for name, text in texts.items() if re.fullmatch(r"[-+.e\d]+", text)}
    total, kind = record.total, record.devices[0].kind
    assert row["emissions"] * 1000 == pytest.approx(total.co2e_grams)
    # codecarbon multiplies energy and power by the PUE, so that emissions over energy are the intensity.
    assert row["energy_consumed"] == pytest.approx(total.kwh * 1.2)  # type: ignore[operator]
    assert row["emissions"] / row["energy_consumed"] * 1000 == pytest.approx(record.carbon.intensity_g_per_kwh)
    assert row["duration"] == pytest.approx(total.seconds)
    assert row["emissions_rate"] == pytest.approx(row["emissions"] / row["duration"])
    assert row[f"{kind}_energy"] * KWH == pytest.approx(total.joules * 1.2)  # type: ignore[operator]
    assert row[f"{kind}_power"] == pytest.approx(120, rel=0.1)
    assert (texts["on_cloud"], texts["cloud_provider"], texts["cloud_region"], row["pue"]) == ("Y", "aws", "eu-west-3", 1.2)
    assert (texts["country_iso_code"], texts["country_name"]) == ("FRA", "France")
    # What is not known is empty, never 0.
    other = "gpu" if kind == "cpu" else "cpu"
    for column in ("cpu_count", f"{other}_energy", f"{other}_power", "ram_energy", "water_consumed", "longitude", "wue"):
        assert not texts[column], column


@pytest.mark.parametrize(
    ("location", "country", "region", "on_cloud"),
    [
        ("CNRS Jean Zay", "", "", ""),
        ("SEATTLE lab", "", "", ""),
        ("USTC", "", "", ""),
        ("NOTRE DAME", "", "", ""),
        ("CAMBRIDGE", "", "", ""),
        ("lab:basement", "", "", ""),
        (None, "", "", ""),
        ("fr", "", "", ""),
        ("FR", "FRA", "", "N"),
        ("SEN", "SEN", "", "N"),
        ("CA-QC", "CAN", "CA-QC", "N"),
        ("CN-BJ", "CHN", "CN-BJ", "N"),
        ("NO1", "NOR", "NO1", "N"),
        ("gcp:us-east1", "USA", "", "Y"),
        ("gcp:me-central1", "QAT", "", "Y"),
        ("aws:us-east-1", "USA", "", "Y"),
        ("azure:swedencentral", "SWE", "", "Y"),
        ("aws:mars-north-1", "", "", "Y"),
    ],
)
def test_a_country_is_told_by_a_whole_code_alone(location: str | None, country: str, region: str, on_cloud: str) -> None:
    with EnergyMeter(backends=[], location=location, carbon_intensity=50, verbose=False) as meter:
        pass
    (row,) = csv.DictReader(io.StringIO(export(meter.record, Format.CODECARBON_CSV)))
    cloud = location.partition(":") if location and on_cloud == "Y" else ("", "", "")
    assert (row["country_iso_code"], row["region"], row["on_cloud"]) == (country, region, on_cloud)
    assert (row["cloud_provider"], row["cloud_region"]) == (cloud[0], cloud[2])


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
    block = yaml.safe_load(export(record, Format.MODEL_CARD))["co2_eq_emissions"]
    assert block["emissions"] == pytest.approx(record.total.co2e_grams, abs=1e-6)
    assert block["geographical_location"] == "aws:eu-west-3"
    assert "kWh measured" in block["source"]
    assert "PUE 1.2" in block["source"]
    assert "; The figure of aws:eu-west-3 is that of France (FRA): the cloud publishes none for it)" in block["source"]
    assert block["hardware_used"] == record.devices[0].name


@pytest.mark.parametrize("grams", [2e-5, 1e-9, 0.0, 1.0, 12.3456789, 123_456_789.0])
def test_a_model_cards_grams_are_a_number_in_yaml(record: RunRecord, grams: float) -> None:
    text = export(replace(record, total=replace(record.total, co2e_grams=grams)), Format.MODEL_CARD)
    (number,) = re.findall("emissions: (.*)", text)
    assert re.fullmatch(r"\d+\.\d+", number)  # a float in YAML 1.1 and 1.2
    assert float(number) == pytest.approx(grams, rel=1e-5)


@pytest.mark.parametrize(
    ("run", "carbon", "says"),
    [
        ({"status": "failed"}, {}, "; the run failed"),
        ({"status": "running"}, {}, "; the run is still running"),
        ({}, {"fallback_share": 0.25}, "; 25 % of it with a fallback intensity)"),
        ({}, {"assumed": True, "assumed_share": 0.4}, "; 40 % of it with the world average, no location set)"),
        ({}, {"assumed": True, "assumed_share": 1.0}, "g CO2e/kWh (world average, no location set)"),
    ],
)
def test_a_model_card_says_what_its_grams_rest_on(
    record: RunRecord, run: dict[str, Any], carbon: dict[str, Any], says: str
) -> None:
    told = replace(record, run=replace(record.run, **run), carbon=replace(record.carbon, **carbon))
    assert says in export(told, Format.MODEL_CARD)
    if run or carbon.keys() == {"fallback_share"}:
        assert says not in export(record, Format.MODEL_CARD)
        assert record.carbon.source in export(told, Format.MODEL_CARD)


def test_a_score_is_energy_times_intensity_for_each_sample(record: RunRecord) -> None:
    (found,) = json.loads(export(record, Format.SCI_JSON))
    stage = record.stages["predict"]
    assert stage.samples == 160
    assert (found["stage"], found["units"], found["embodied_g"]) == ("predict", 160, None)
    assert found["operational_g"] == pytest.approx(found["energy_kwh"] * found["intensity_g_per_kwh"])
    assert found["intensity_g_per_kwh"] == pytest.approx(record.carbon.intensity_g_per_kwh)
    assert found["sci_g_per_1000_units"] == pytest.approx(stage.co2e_grams / 160 * 1000)  # type: ignore[operator]
    assert (found["provenance"], found["relative_uncertainty"]) == (stage.provenance, stage.relative_uncertainty)
    assert stage.relative_uncertainty is not None
    assert (found["intensity_assumed"], found["intensity_fallback_share"]) == (False, 0)
    assert "; The figure of aws:eu-west-3 is that of France (FRA)" in found["intensity_source"]
    assert found["boundary"].endswith("; embodied emissions are unknown and not included")


def test_a_score_says_that_its_intensity_is_assumed_or_stands_in(record: RunRecord) -> None:
    told = replace(record, carbon=replace(record.carbon, assumed=True, fallback_share=0.3))
    (found,) = json.loads(export(told, Format.SCI_JSON))
    assert (found["intensity_assumed"], found["intensity_fallback_share"]) == (True, 0.3)


def test_the_stages_shares_of_the_machines_making_add_up_to_the_runs() -> None:
    options = {"carbon_intensity": 100, "embodied_kg": 1000, "lifetime_years": 4, "verbose": False}
    with EnergyMeter(backends=[steady(100.0)], **options) as meter:  # type: ignore[arg-type]
        for name in ("train", "predict"):
            sum(range(3_000_000))  # outside all stages
            with meter.stage(name), meter.batch(samples=10):
                sum(range(3_000_000))
    record = meter.record
    assert record.stages["other"].seconds > 0.01 * record.total.seconds
    train, predict = json.loads(export(record, Format.SCI_JSON))
    assert train["embodied_g"] + predict["embodied_g"] == pytest.approx(record.carbon.embodied_grams)
    ratio = record.stages["train"].seconds / record.stages["predict"].seconds
    assert train["embodied_g"] / predict["embodied_g"] == pytest.approx(ratio)
    # A stage whose samples nobody knows keeps its own share: it is not predict's.
    record.stages["train"].samples = None
    (alone,) = json.loads(export(record, Format.SCI_JSON))
    assert alone["embodied_g"] == pytest.approx(predict["embodied_g"])
    assert "embodied" not in alone["boundary"]


def test_the_machines_making_is_part_of_the_score(tmp_path: Path) -> None:
    meter = EnergyMeter(
        backends=[steady(100.0)],
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
    assert stage.samples == 10
    assert found["embodied_g"] == pytest.approx(carbon.embodied_grams)  # the only stage
    assert found["sci_g_per_unit"] == pytest.approx((found["operational_g"] + found["embodied_g"]) / 10)
    (row,) = csv.DictReader(io.StringIO(export(record, Format.CODECARBON_CSV)))
    assert float(row["water_consumed"]) == pytest.approx(carbon.water_litres)
    shown = ml_energy("report", tmp_path).stdout
    assert "Embodied emissions, not included above: " in shown
    assert "Offsets of 5 g CO2e are not subtracted." in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"wue": -1}, "wue is -1; give litres per kWh"),
        ({"embodied_kg": 1000}, "embodied_kg requires lifetime_years and vice versa"),
        ({"embodied_kg": -1, "lifetime_years": 4}, "embodied_kg is -1; give kg CO2e"),
        ({"embodied_kg": 1000, "lifetime_years": 0}, "lifetime_years is 0; give the years"),
        ({"offset_grams": float("nan")}, "offset_grams is nan; give g CO2e"),
        ({"pue": 0.9}, "pue is 0.9; give the data centre's energy divided by its IT energy, 1.0 or more"),
        ({"pue": "1.2"}, "pue is '1.2'; give the data centre's energy"),
        ({"pue": None}, "pue is None; give the data centre's energy"),
        ({"wue": "1.8"}, "wue is '1.8'; give litres per kWh"),
        ({"currency": None}, "currency is None; give a three-letter code"),
        ({"location": False}, "The location False is unknown"),  # Norway's code in YAML, without quotes
    ],
)
def test_impossible_figures_of_a_site_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        EnergyMeter(**options)


def test_figures_of_a_site_may_be_numbers_of_another_library(tmp_path: Path) -> None:
    numbers = {"pue": Decimal("1.5"), "wue": np.float32(1.5), "embodied_kg": np.float64(1500), "lifetime_years": np.int64(4)}
    meter = EnergyMeter(backends=[], location="FRA", offset_grams=np.int64(3), output_dir=tmp_path, verbose=False, **numbers)
    with meter:
        pass
    carbon = load_record(tmp_path).carbon
    assert (carbon.pue, carbon.wue, carbon.offset_grams) == (1.5, 1.5, 3.0)


def test_what_a_run_does_not_know_is_refused() -> None:
    record = _empty()
    with pytest.raises(RecordError, match="emissions of the run are unknown"):
        export(record, Format.MODEL_CARD)
    with pytest.raises(RecordError, match="No stage of the run has both known samples"):
        export(record, Format.SCI_JSON)


def test_the_command_writes_formats_that_ask_for_nothing(folder: Path) -> None:
    for form in (Format.CODECARBON_CSV, Format.MODEL_CARD, Format.SCI_JSON):
        done = ml_energy("export", folder, "--format", form)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == export(load_record(folder), form)
