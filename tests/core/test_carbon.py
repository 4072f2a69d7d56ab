"""Joules become grams and money, or the place is said to be unknown."""

import csv
import importlib.util
import json
import math
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import ml_energy_callbacks.codecarbon_data as tables
from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.carbon import CarbonIntensity, choose_provider, places
from ml_energy_callbacks.carbon.cloud_regions import AWS, AZURE
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError, LocationError
from ml_energy_callbacks.export import Format, export
from ml_energy_callbacks.report import render
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter


def resolve_intensity(location: str | None, carbon_intensity: float | None) -> CarbonIntensity:
    """Return the intensity of now."""
    return choose_provider(location, carbon_intensity).quote(datetime.now(UTC)).intensity


@pytest.mark.parametrize("place", ["FRA", "FR", "fr", "France", " france "])
def test_a_country_is_known_by_code_and_by_name(place: str) -> None:
    intensity = resolve_intensity(place, None)
    assert (intensity.location, intensity.g_per_kwh, intensity.assumed) == ("FRA", 56.039, False)
    assert intensity.data_year == 2023


@pytest.mark.parametrize("place", ["GBR", "GB", "UK", "United Kingdom", "Great Britain"])
def test_the_united_kingdom_is_known_by_what_people_call_it(place: str) -> None:
    assert resolve_intensity(place, None).location == "GBR"


@pytest.mark.parametrize(
    ("place", "code"), [("Québec", "CA-QC"), ("Côte d'Ivoire", "CIV"), ("Réunion", "REU"), ("Türkiye", "TUR")]
)
def test_a_place_is_known_by_its_name_with_accents(place: str, code: str) -> None:
    assert resolve_intensity(place, None).location == code


def test_nobody_named_a_place_so_the_world_is_assumed() -> None:
    intensity = resolve_intensity(None, None)
    assert (intensity.g_per_kwh, intensity.location, intensity.assumed) == (475, None, True)


def test_an_explicit_intensity_goes_before_the_place() -> None:
    assert resolve_intensity("our own roof", 12.5).g_per_kwh == 12.5


def test_a_constant_keeps_its_users_source() -> None:
    contract = CarbonIntensity(12.0, "Lyon", "our supply contract of 2026", 2026)
    assert choose_provider("FRA", contract).quote(datetime.now(UTC)) == (contract, None, None, False)
    with pytest.raises(ConfigurationError, match=r"carbon_intensity is -1.0; give grams"):
        choose_provider(None, CarbonIntensity(-1.0, None, "nobody", None))


@pytest.mark.parametrize(
    ("place", "near"),
    [
        ("Frnce", r"France \(FRA\)"),
        ("Kalifornia", r"California \(US-CA\)"),
        ("aws:eu-west-33", r"aws:eu-west-3 \(aws:eu-west-3\)"),
    ],
)
def test_an_unknown_place_is_refused_with_its_neighbours(place: str, near: str) -> None:
    with pytest.raises(LocationError, match=f"'{place}'; near it: .*{near}"):
        resolve_intensity(place, None)


def test_a_name_that_two_places_bear_is_refused_with_both() -> None:
    with pytest.raises(LocationError, match=r"'Georgia' may be Georgia \(GEO\) or Georgia \(US-GA\); give the code"):
        resolve_intensity("Georgia", None)


def test_a_country_without_figures_is_refused() -> None:
    with pytest.raises(LocationError, match=r"No carbon intensity of 'Vatican City' is known|There is no place 'Vatican City'"):
        resolve_intensity("Vatican City", None)


SOURCE = Path((importlib.util.find_spec("codecarbon").submodule_search_locations or [""])[0]) / "data"  # type: ignore[union-attr]


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


def test_quebec_is_its_mix_times_the_intensity_of_each_source() -> None:
    found = resolve_intensity("Quebec", None)
    # 94 % hydro at 26 and 5 % wind at 26 g/kWh, and little else.
    assert found.g_per_kwh == pytest.approx(30, abs=5)
    assert found.renewable_share == pytest.approx(0.995, abs=0.01)


def test_every_cloud_region_has_the_figure_of_the_very_place_that_it_is_taken_for() -> None:
    known = places._places()
    for provider, regions in (("aws", AWS), ("azure", AZURE)):
        for region, code in regions.items():
            assert known[f"{provider}:{region}"].intensity.g_per_kwh == known[code].intensity.g_per_kwh, region


def test_shares_of_renewable_and_low_carbon_electricity_are_told() -> None:
    france = resolve_intensity("FRA", None)
    mix = _json("private_infra", "global_energy_mix.json")["FRA"]
    assert france.renewable_share == pytest.approx(mix["renewables_TWh"] / mix["total_TWh"])
    assert france.low_carbon_share == pytest.approx(mix["low_carbon_TWh"] / mix["total_TWh"])


class TestCodecarbonsTables:
    """What its next release must not move without our notice."""

    def test_each_table_has_what_we_take_from_it(self) -> None:
        assert len(tables.energy_mixes()) > 200
        assert {
            "carbon_intensity",
            "country_name",
            "year",
            "renewables_TWh",
            "low_carbon_TWh",
            "total_TWh",
        } <= tables.energy_mixes()["FRA"].keys()
        assert len([name for name in tables.us_states() if not name.startswith("_")]) >= 51
        assert {"name", "year"} <= tables.us_states()["_source"].keys()
        assert len(tables.canadian_provinces()[0]) >= 13
        assert len(tables.chinese_provinces()["data"]) >= 30
        assert {"SE1", "SE2", "SE3", "SE4", "NO1", "NO2", "NO3", "NO4", "NO5"} <= tables.nordic_zones()["data"].keys()
        assert len([row for row in tables.cloud_regions() if row["provider"] == "gcp"]) >= 39
        per_source = _json("private_infra", "carbon_intensity_per_source.json")
        assert tables.world_average() == (per_source["world_average"], per_source["world_average_source"])
        assert tables.world_average() == tables._WORLD_AVERAGE

    def test_every_table_gives_its_places(self) -> None:
        codes = places._places().keys()
        assert sum(code.startswith("US-") for code in codes) == 51
        assert sum(code.startswith("CA-") for code in codes) == 13
        assert sum(code.startswith("CN-") for code in codes) == 30
        assert sum(code.startswith("gcp:") for code in codes) >= 39

    @pytest.fixture
    def moved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Let another release of codecarbon be installed, and give its data."""
        shutil.copytree(SOURCE.parent, tmp_path / "codecarbon", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        (tmp_path / "codecarbon" / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "codecarbon", raising=False)
        cached = [value for module in (tables, places) for value in vars(module).values() if hasattr(value, "cache_clear")]
        for function in cached:
            function.cache_clear()
        yield tmp_path / "codecarbon" / "data"
        monkeypatch.undo()
        for function in cached:
            function.cache_clear()

    def test_a_table_that_moved_leaves_the_country(self, moved: Path) -> None:
        shutil.rmtree(moved / "private_infra" / "2023")
        (moved / "cloud" / "impact.csv").write_text("other,columns\n1,2\n", encoding="utf-8")
        found = resolve_intensity("aws:us-east-1", None)
        assert found.g_per_kwh == _country("USA")
        assert found.note is not None
        assert "United States (USA)" in found.note
        with pytest.raises(LocationError, match="There is no place 'Virginia'"):
            resolve_intensity("Virginia", None)

    @pytest.mark.parametrize("table", ["", "other,columns\n1,2\n", None])
    def test_without_googles_regions_the_other_places_are_known(self, moved: Path, table: str | None) -> None:
        (moved / "cloud" / "impact.csv").unlink()
        if table is not None:
            (moved / "cloud" / "impact.csv").write_text(table, encoding="utf-8")
        with EnergyMeter(backends=[], location="Virginia", verbose=False) as meter:
            pass
        assert ",USA,US-VA," in export(meter.record, Format.CODECARBON_CSV)
        assert places.country_of("gcp:us-east1") is None

    @pytest.mark.parametrize("table", ["{}", "[]", "no JSON", '{"FRA": {"intensity": 50}}', None])
    def test_without_its_countries_a_run_takes_the_worlds_average_or_is_refused_in_a_sentence(
        self, moved: Path, table: str | None
    ) -> None:
        for name in ("global_energy_mix.json", "carbon_intensity_per_source.json"):
            (moved / "private_infra" / name).unlink()
            if table is not None:
                (moved / "private_infra" / name).write_text(table, encoding="utf-8")
        counter = ScriptedCounter(PowerCurve(monotonic_clock, 100.0), monotonic_clock, period_s=0.02)
        with EnergyMeter(backends=[ScriptedBackend([counter])], verbose=False) as meter, meter.stage("train"):
            sum(range(1_000_000))
        assert (meter.record.carbon.intensity_g_per_kwh, meter.record.carbon.assumed) == (475, True)
        render(meter.record)
        assert export(meter.record, Format.CODECARBON_CSV)
        with pytest.raises(LocationError, match="No carbon intensity of 'FRA' is known; give carbon_intensity=<g per kWh>"):
            EnergyMeter(location="FRA")
        assert resolve_intensity("aws:us-east-1", None).location == "aws:us-east-1"  # by the table of states
        for place in ("aws:eu-west-3", "UK"):
            with pytest.raises(LocationError, match=f"There is no place '{place}'"):
                EnergyMeter(location=place)

    def test_the_latest_year_of_a_table_is_taken(self, moved: Path) -> None:
        later = moved / "private_infra" / "2031"
        shutil.copytree(moved / "private_infra" / "2023", later)
        states = json.loads((later / "usa_emissions.json").read_text(encoding="utf-8"))
        states["virginia"]["emissions"], states["_source"]["year"] = 100.0, 2031
        (later / "usa_emissions.json").write_text(json.dumps(states), encoding="utf-8")
        found = resolve_intensity("Virginia", None)
        assert (found.g_per_kwh, found.data_year) == (pytest.approx(45.359237), 2031)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_an_impossible_intensity_is_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match="carbon_intensity"):
        resolve_intensity(None, value)


def test_zero_has_no_sign() -> None:
    assert math.copysign(1, resolve_intensity(None, -0.0).g_per_kwh) == 1
