"""The package's tables against those of the codecarbon that is installed, and what else of it is agreed on.

Where a new release changed its tables, the first test says which rows; ``python tests/release_data.py`` takes them over.
"""

import ast
import csv
import dataclasses
import importlib.util
import inspect
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pycountry
import pytest
from codecarbon.output_methods.emissions_data import EmissionsData
from codecarbon.output_methods.file import FileOutput
from known_places import PLACES
from loads import steady
from other_codecarbon import installed
from release_data import changes, read_installed
from run_records import a_record

import ml_energy_callbacks.codecarbon_data as tables
from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.carbon import CarbonIntensity, ElectricityMaps, choose_provider, places
from ml_energy_callbacks.carbon.live import forecast_zone
from ml_energy_callbacks.fleet.imports import import_file
from ml_energy_callbacks.report import render
from ml_energy_callbacks.report.export import Format, export

FOLDER = Path((importlib.util.find_spec("codecarbon").submodule_search_locations or [""])[0])  # type: ignore[union-attr]
SOURCE = FOLDER / "data"


def resolve_intensity(location: str | None, carbon_intensity: float | None) -> CarbonIntensity:
    """Return the intensity of now."""
    return choose_provider(location, carbon_intensity).quote(datetime.now(UTC)).intensity


@pytest.mark.parametrize("kind", tables.KINDS, ids=lambda kind: kind.name)
def test_our_table_is_that_of_the_installed_release(kind: tables.Kind[Any]) -> None:
    ours, theirs = tables.our_table(kind), read_installed(kind)
    found = changes(ours, theirs)
    assert not found, f"codecarbon {theirs.codecarbon} changed {kind.name} since {ours.codecarbon}:\n" + "\n".join(found)
    assert ours.codecarbon == theirs.codecarbon


def test_what_another_release_changed_is_named_row_by_row(moved: Path) -> None:
    table = moved / "private_infra" / "global_energy_mix.json"
    mixes = json.loads(table.read_text(encoding="utf-8"))
    del mixes["AFG"]
    mixes["FRA"]["carbon_intensity"] = 44.5
    mixes["XYZ"] = {"carbon_intensity": 1.0, "country_name": "Nowhere", "year": 2031}
    table.write_text(json.dumps(mixes), encoding="utf-8")
    with (moved / "hardware" / "cpu_power.csv").open("a", encoding="utf-8") as file:
        file.write("Acme 9000,123\n")
    found = changes(tables.our_table(tables.COUNTRIES), read_installed(tables.COUNTRIES))
    assert [line.partition(":")[0] for line in found] == ["AFG", "FRA", "XYZ"]
    assert found[0].endswith("-> none")
    assert found[1].startswith('FRA: ["France", 56.039, 2023')
    assert '-> ["France", 44.5, 2023' in found[1]
    assert found[2].startswith('XYZ: none -> ["Nowhere", 1.0, 2031')
    assert changes(tables.our_table(tables.PROCESSORS), read_installed(tables.PROCESSORS)) == ["Acme 9000: none -> 123 W"]


@pytest.mark.parametrize(("named", "code", "g_per_kwh", "basis", "year"), PLACES)
def test_places_have_the_same_figures_with_codecarbon_installed(
    named: str, code: str, g_per_kwh: float, basis: str, year: int | None
) -> None:
    found = resolve_intensity(named, None)
    assert found.g_per_kwh == pytest.approx(g_per_kwh, rel=1e-9)
    assert (found.location, found.basis, found.data_year, found.assumed) == (code, basis, year, False)


def test_a_newer_release_with_the_same_tables_gives_the_same_places(copied: Path) -> None:
    ours, release = dict(places._places()), tables.countries().codecarbon
    with installed(copied, "99.0"):
        newer = dict(places._places())
    assert newer.keys() == ours.keys()
    for code, place in ours.items():
        assert newer[code].intensity.g_per_kwh == place.intensity.g_per_kwh
        told = place.intensity.source.replace(f"codecarbon {release}", "the installed codecarbon 99.0")
        assert newer[code].intensity.source == told != place.intensity.source


def test_countries_are_known_by_every_code_and_name_of_iso_3166() -> None:
    for country in pycountry.countries:
        for key, name in country._fields.items():
            if key != "flag":
                assert places._country_codes()[places._normalize(name)] == country.alpha_3, name


def _json(*parts: str) -> Any:
    return json.loads(SOURCE.joinpath(*parts).read_text(encoding="utf-8"))


def _country(code: str) -> float:
    return _json("private_infra", "global_energy_mix.json")[code]["carbon_intensity"]  # type: ignore[no-any-return]


def _state(name: str) -> float:
    """Return a state's g per kWh from pounds per MWh."""
    return _json("private_infra", "2023", "usa_emissions.json")[name]["emissions"] * 0.45359237  # type: ignore[no-any-return]


def _chinese(code: str) -> float:
    return _json("private_infra", "2023", "china_provincial_emissions.json")["data"][code]["emission_factor"]  # type: ignore[no-any-return]


def _nordic(zone: str) -> float:
    return _json("private_infra", "nordic_emissions.json")["data"][zone]["emission_factor"]  # type: ignore[no-any-return]


def _google(region: str) -> float:
    with (SOURCE / "cloud" / "impact.csv").open(encoding="utf-8-sig") as file:
        return next(float(row["impact"]) for row in csv.DictReader(file) if row["region"] == region)


@pytest.mark.parametrize(
    ("named", "code", "truth", "basis", "year"),
    [
        ("Germany", "DEU", lambda: _country("DEU"), "lifecycle", 2023),
        ("gb", "GBR", lambda: _country("GBR"), "lifecycle", 2023),
        ("IND", "IND", lambda: _country("IND"), "lifecycle", 2023),
        ("Brazil", "BRA", lambda: _country("BRA"), "lifecycle", 2023),
        ("Virginia", "US-VA", lambda: _state("virginia"), "direct", 2023),
        ("us-ca", "US-CA", lambda: _state("california"), "direct", 2023),
        (" us-tx ", "US-TX", lambda: _state("texas"), "direct", 2023),
        ("new  york", "US-NY", lambda: _state("new york"), "direct", 2023),
        ("Beijing", "CN-BJ", lambda: _chinese("CN-BJ"), "direct", 2023),
        ("CN-SH", "CN-SH", lambda: _chinese("CN-SH"), "direct", 2023),
        ("SE3", "SE3", lambda: _nordic("SE3"), "mixed", 2025),
        ("no1", "NO1", lambda: _nordic("NO1"), "mixed", 2025),
        ("gcp:us-central1", "gcp:us-central1", lambda: _google("us-central1"), "unknown", None),
        ("europe-west9", "gcp:europe-west9", lambda: _google("europe-west9"), "unknown", None),
        ("me-central1", "gcp:me-central1", lambda: _google("me-cenrtal1"), "unknown", None),
        ("us-east-1", "aws:us-east-1", lambda: _state("virginia"), "direct", 2023),
        ("aws:eu-west-3", "aws:eu-west-3", lambda: _country("FRA"), "lifecycle", 2023),
        ("aws:eu-north-1", "aws:eu-north-1", lambda: _nordic("SE3"), "mixed", 2025),
        ("eastus", "azure:eastus", lambda: _state("virginia"), "direct", 2023),
        ("azure:chinaeast", "azure:chinaeast", lambda: _chinese("CN-SH"), "direct", 2023),
    ],
)
def test_twenty_places_are_those_of_the_source_data(named: str, code: str, truth: Any, basis: str, year: int | None) -> None:
    found = resolve_intensity(named, None)
    assert found.g_per_kwh == pytest.approx(truth(), rel=1e-9)
    assert (found.location, found.basis, found.data_year, found.assumed) == (code, basis, year, False)
    assert (found.note is not None) == (code[:3] in ("aws", "azu"))


def test_shares_of_renewable_and_low_carbon_electricity_are_told() -> None:
    france = resolve_intensity("FRA", None)
    mix = _json("private_infra", "global_energy_mix.json")["FRA"]
    assert france.renewable_share == pytest.approx(mix["renewables_TWh"] / mix["total_TWh"])
    assert france.low_carbon_share == pytest.approx(mix["low_carbon_TWh"] / mix["total_TWh"])


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with the installed codecarbon's data."""
    shutil.copytree(FOLDER, tmp_path / "site" / "codecarbon", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (tmp_path / "site" / "codecarbon" / "__init__.py").touch()
    return tmp_path / "site"


@pytest.fixture
def moved(copied: Path) -> Iterator[Path]:
    """Let another release of codecarbon be installed, and give its data."""
    with installed(copied, "99.0") as data:
        yield data


def test_ours_stands_in_for_a_table_that_moved(moved: Path) -> None:
    shutil.rmtree(moved / "private_infra" / "2023")
    (moved / "cloud" / "impact.csv").write_text("other,columns\n1,2\n", encoding="utf-8")
    for named, g_per_kwh in (("aws:us-east-1", 244.758), ("Virginia", 244.758), ("CA-QC", 31.234), ("europe-west9", 34)):
        found = resolve_intensity(named, None)
        assert found.g_per_kwh == pytest.approx(g_per_kwh, rel=1e-4)
        assert "installed" not in found.source
    assert resolve_intensity("aws:eu-west-3", None).source.endswith("table of the installed codecarbon 99.0")


@pytest.mark.parametrize("table", ["", "other,columns\n1,2\n", None])
def test_without_googles_regions_the_other_places_are_known(moved: Path, table: str | None) -> None:
    (moved / "cloud" / "impact.csv").unlink()
    if table is not None:
        (moved / "cloud" / "impact.csv").write_text(table, encoding="utf-8")
    with EnergyMeter(backends=[], location="Virginia", verbose=False) as meter:
        pass
    assert ",USA,US-VA," in export(meter.record, Format.CODECARBON_CSV)
    assert places.country_of("gcp:us-east1") == "USA"


@pytest.mark.parametrize("table", ["{}", "[]", "no JSON", '{"FRA": {"intensity": 50}}', None])
def test_without_its_countries_a_run_has_the_worlds_average_and_the_places_of_ours(moved: Path, table: str | None) -> None:
    for name in ("global_energy_mix.json", "carbon_intensity_per_source.json"):
        (moved / "private_infra" / name).unlink()
        if table is not None:
            (moved / "private_infra" / name).write_text(table, encoding="utf-8")
    with EnergyMeter(backends=[steady(100.0)], verbose=False) as meter, meter.stage("train"):
        sum(range(1_000_000))
    assert (meter.record.carbon.intensity_g_per_kwh, meter.record.carbon.assumed) == (475, True)
    render(meter.record)
    assert export(meter.record, Format.CODECARBON_CSV)
    for named, code in (("FRA", "FRA"), ("aws:eu-west-3", "aws:eu-west-3"), ("UK", "GBR")):
        found = resolve_intensity(named, None)
        assert found.location == code
        assert "installed" not in found.source
    assert resolve_intensity("aws:us-east-1", None).source.endswith("the installed codecarbon 99.0")  # by the table of states


def test_the_latest_year_of_a_table_is_taken(moved: Path) -> None:
    later = moved / "private_infra" / "2031"
    shutil.copytree(moved / "private_infra" / "2023", later)
    states = json.loads((later / "usa_emissions.json").read_text(encoding="utf-8"))
    states["virginia"]["emissions"], states["_source"]["year"] = 100.0, 2031
    (later / "usa_emissions.json").write_text(json.dumps(states), encoding="utf-8")
    found = resolve_intensity("Virginia", None)
    assert (found.g_per_kwh, found.data_year) == (pytest.approx(45.359237), 2031)


def test_the_address_is_the_one_that_codecarbon_asks() -> None:
    theirs = (FOLDER / "core" / "electricitymaps_api.py").read_text(encoding="utf-8")
    for ours in (ElectricityMaps, forecast_zone):
        assert f'"{inspect.signature(ours).parameters["url"].default}/carbon-intensity/latest"' in theirs


def test_codecarbons_columns_are_those_of_its_release() -> None:
    # Read, not imported: importing codecarbon looks for hardware.
    source = (FOLDER / "output_methods" / "emissions_data.py").read_text(encoding="utf-8")
    (data,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "EmissionsData")
    names = [node.target.id for node in data.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    with EnergyMeter(backends=[], carbon_intensity=0, verbose=False) as meter:
        pass
    assert export(meter.record, Format.CODECARBON_CSV).splitlines()[0].split(",") == names


def test_codecarbons_own_file_has_the_same_relations(tmp_path: Path) -> None:
    """Of a run of codecarbon's with a constant 10 W of memory: what the PUE is in, and what its water is reckoned from."""
    program = f"""
from codecarbon import OfflineEmissionsTracker
options = {{"country_iso_code": "POL", "pue": 1.5, "wue": 2.0, "force_cpu_power": 100, "force_ram_power": 10}}
tracker = OfflineEmissionsTracker(
    **options, measure_power_secs=0.2, output_dir={str(tmp_path)!r}, log_level="error", allow_multiple_runs=True
)
tracker.start()
sum(range(20_000_000))
tracker.stop()
"""
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=tmp_path, timeout=120)
    theirs = pd.read_csv(tmp_path / "emissions.csv").iloc[0]
    backend = steady(10.0)
    with EnergyMeter(backends=[backend], location="POL", pue=1.5, wue=2, verbose=False) as meter, meter.stage("train"):
        sum(range(20_000_000))
    ours = pd.read_csv(io.StringIO(export(meter.record, Format.CODECARBON_CSV))).iloc[0]
    kind = meter.record.devices[0].kind
    assert theirs["ram_power"] == pytest.approx(15)
    assert ours[f"{kind}_power"] == pytest.approx(15, rel=0.1)
    for of, by in (("emissions", "energy_consumed"), ("water_consumed", "energy_consumed"), ("emissions_rate", "emissions")):
        scale = 1 if of != "emissions_rate" else theirs["duration"] / ours["duration"]
        assert ours[of] / ours[by] == pytest.approx(theirs[of] / theirs[by] * scale), of
    assert ours[f"{kind}_energy"] == pytest.approx(ours["energy_consumed"])
    for column in ("cpu_count", "ram_energy", "longitude"):
        assert pd.isna(ours[column]), column


def test_codecarbons_dashboard_reads_the_projects_of_a_file(tmp_path: Path) -> None:
    runs = [a_record(seed=1, status="failed"), a_record(seed=2), a_record(seed=3, model="ViT")]
    (tmp_path / "emissions.csv").write_text(export(runs, Format.CODECARBON_CSV), encoding="utf-8")
    # In a process of its own: importing codecarbon looks for hardware.
    program = """
import json
import pandas as pd
from codecarbon.viz.data import Data
frame = pd.read_csv("emissions.csv")
shown = {name: Data.get_project_summary(Data.get_project_data(frame, name).data) for name in frame.project_name.unique()}
print(json.dumps(shown))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=tmp_path, timeout=120)
    shown = json.loads(done.stdout)
    assert list(shown) == ["ResNet", "ViT"]
    total = shown["ResNet"]["total"]
    assert total["energy_consumed"] == pytest.approx(2 * 7200 / 3.6e6 * 1.2)
    assert total["emissions"] == pytest.approx(2 * 7200 / 3.6e6 * 56 / 1000)
    assert shown["ViT"]["country_iso_code"] == "FRA"


@pytest.mark.parametrize("mode", ["append", "update"])
def test_what_the_installed_codecarbon_writes_is_imported(tmp_path: Path, mode: str) -> None:
    fields = {field.name: field.type for field in dataclasses.fields(EmissionsData)}
    row = {name: 0.5 if kind is float else "" for name, kind in fields.items()}
    row |= {"timestamp": "2026-11-25T13:00:00", "project_name": "mine", "codecarbon_version": "3", "pue": 1.0, "gpu_count": 2}
    output = FileOutput("emissions.csv", str(tmp_path), mode)
    for run_id, seconds in (("a", 1.0), ("a", 2.0), ("b", 3.0), ("a", 4.0)):
        output.out(EmissionsData(**{**row, "run_id": run_id, "duration": seconds, "energy_consumed": seconds / 7}), None)
    records = import_file(tmp_path / "emissions.csv").records
    assert {(record.run.id, record.total.seconds, record.total.kwh) for record in records} == {
        ("a", 4.0, 4 / 7),
        ("b", 3.0, 3 / 7),
    }
    assert all((record.total.co2e_grams, record.devices[1].count) == (500, 2) for record in records)
