"""Joules become grams and money, or the place is said to be unknown."""

import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from known_places import PLACES
from other_codecarbon import installed

import ml_energy_callbacks
import ml_energy_callbacks.codecarbon_data as tables
from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.backends.cpu_model import CpuModelBackend
from ml_energy_callbacks.carbon import CarbonIntensity, choose_provider, places
from ml_energy_callbacks.carbon.cloud_regions import AWS, AZURE
from ml_energy_callbacks.exceptions import ConfigurationError, LocationError
from ml_energy_callbacks.testing import ManualClock, PowerCurve
from ml_energy_callbacks.testing.proc import SimulatedProc

Install = Callable[[str | None], Path]

PACKAGE = Path(ml_energy_callbacks.__file__).parent


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Return what installs a small release of codecarbon, with countries and a processor, and gives its folder of data."""
    site = tmp_path / "site"
    mixes = {row.code: mix(row.name, row.g_per_kwh, row.year) for row in tables.our_table(tables.COUNTRIES).rows}
    files = {
        "__init__.py": "raise ImportError('codecarbon is read, never imported')",
        "data/private_infra/global_energy_mix.json": json.dumps(mixes | {"FRA": mix("France", 41.5, 2031)}),
        "data/hardware/cpu_power.csv": "Name,TDP\nAcme 9000,123\nAcme 8000,unknown\n",
    }
    for name, text in files.items():
        path = site / "codecarbon" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with ExitStack() as stack:
        yield lambda release: stack.enter_context(installed(site, release))


def mix(country: str, g_per_kwh: float, year: int) -> dict[str, Any]:
    """Return a country's row in codecarbon's table."""
    return {"carbon_intensity": g_per_kwh, "country_name": country, "year": year, "new_column": 1}


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
    with pytest.raises(LocationError, match=f"'{place}' is unknown; similar: .*{near}"):
        resolve_intensity(place, None)


def test_a_name_that_two_places_bear_is_refused_with_both() -> None:
    with pytest.raises(LocationError, match=r"'Georgia' may be Georgia \(GEO\) or Georgia \(US-GA\); give the code"):
        resolve_intensity("Georgia", None)


def test_a_country_without_figures_is_refused() -> None:
    with pytest.raises(
        LocationError, match=r"The carbon intensity of 'Vatican City' is unknown|The location 'Vatican City' is unknown"
    ):
        resolve_intensity("Vatican City", None)


@pytest.mark.parametrize(("named", "code", "g_per_kwh", "basis", "year"), PLACES)
def test_places_of_every_kind_have_the_figures_of_the_tables(
    named: str, code: str, g_per_kwh: float, basis: str, year: int | None
) -> None:
    found = resolve_intensity(named, None)
    assert found.g_per_kwh == pytest.approx(g_per_kwh, rel=1e-9)
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
    assert france.renewable_share == pytest.approx(0.2629, abs=1e-4)
    assert france.low_carbon_share == pytest.approx(0.9158, abs=1e-4)


class TestTables:
    """Our own, and those of a codecarbon that is installed."""

    def test_each_table_states_where_it_is_from(self) -> None:
        names = {path.stem for path in tables.DATA.glob("*.json")}
        assert names == {kind.name for kind in tables.KINDS} | {"country_names", "microarchitectures"}
        releases = set()
        for name in names:
            table = json.loads((tables.DATA / f"{name}.json").read_text(encoding="utf-8"))
            for key in ("title", "source", "url", "years", "licence", "columns", "rows"):
                assert table[key], (name, key)
            releases.add(table["codecarbon"])
        assert len(releases - {None}) == 1
        assert "MIT License" in (tables.DATA / "LICENSE-codecarbon.txt").read_text(encoding="utf-8")

    def test_each_table_has_what_we_take_from_it(self) -> None:
        assert len(tables.countries().rows) > 200
        assert None not in msgspec.to_builtins(tables.countries_by_code()["FRA"])
        assert len(tables.us_states().rows) == 51
        assert len(tables.canadian_provinces().rows) >= 13
        assert len(tables.chinese_provinces().rows) >= 30
        assert {"SE1", "SE2", "SE3", "SE4", "NO1", "NO2", "NO3", "NO4", "NO5"} <= {
            zone.code for zone in tables.nordic_zones().rows
        }
        assert len(tables.google_regions().rows) >= 39
        assert tables.source_intensities()["world_average"].g_per_kwh == 475
        assert len(tables.processor_tdps()) > 4000
        assert len(tables.country_names()) == 249

    def test_every_table_gives_its_places(self) -> None:
        codes = places._places().keys()
        assert sum(code.startswith("US-") for code in codes) == 51
        assert sum(code.startswith("CA-") for code in codes) == 13
        assert sum(code.startswith("CN-") for code in codes) == 30
        assert sum(code.startswith("gcp:") for code in codes) >= 39

    def test_the_source_names_the_release(self) -> None:
        release = tables.countries().codecarbon
        assert resolve_intensity("FRA", None).source == (
            f"Our World in Data, after Ember and the Energy Institute; table of codecarbon {release}"
        )
        assert resolve_intensity(None, None).source.endswith(f"; table of codecarbon {release}")

    def test_a_newer_release_is_used_and_the_record_says_so(self, tmp_path: Path, install: Install) -> None:
        install("99.1")
        with EnergyMeter(backends=[], location="FRA", verbose=False) as meter:
            pass
        carbon = meter.record.carbon
        assert (carbon.intensity_g_per_kwh, carbon.data_year) == (41.5, 2031)
        assert carbon.source.endswith("; table of the installed codecarbon 99.1")
        clock = ManualClock()
        proc = SimulatedProc(tmp_path / "proc", clock, PowerCurve(clock, 0.0))
        proc.processor("Acme 9000", sockets=2)
        (source,) = CpuModelBackend(proc=proc.root, environ={}).open()
        assert "2 x 123 W TDP (Acme 9000 in the table of the installed codecarbon 99.1)" in (source.device.note or "")

    @pytest.mark.parametrize("release", [None, "0.9", "ours"])
    def test_the_same_release_or_an_older_one_is_not_used(self, install: Install, release: str | None) -> None:
        install(tables.our_table(tables.COUNTRIES).codecarbon if release == "ours" else release)
        found = resolve_intensity("FRA", None)
        assert (found.g_per_kwh, "installed" in found.source) == (56.039, False)
        assert "Acme 9000" not in tables.processor_tdps()

    @pytest.mark.parametrize(
        "text", ["{}", "[]", "no JSON", '{"FRA": {"intensity": 50}}', '{"FRA": {"carbon_intensity": "x"}}', "one country", None]
    )
    def test_a_table_of_a_newer_release_that_changed_its_form_is_not_used(self, install: Install, text: str | None) -> None:
        data = install("99.1")
        table = data / "private_infra" / "global_energy_mix.json"
        if text is None:
            table.unlink()
        elif text == "one country":
            table.write_text(json.dumps({"FRA": mix("France", 41.5, 2031)}), encoding="utf-8")
        else:
            table.write_text(text, encoding="utf-8")
        found = resolve_intensity("FRA", None)
        assert (found.g_per_kwh, "installed" in found.source) == (56.039, False)
        assert "Acme 9000" in tables.processor_tdps()

    @pytest.mark.parametrize("value", [-5, 1e308])
    def test_a_table_with_an_impossible_figure_is_not_used(self, install: Install, value: float) -> None:
        table = install("99.1") / "private_infra" / "global_energy_mix.json"
        rows = json.loads(table.read_text(encoding="utf-8")) | {"DEU": mix("Germany", value, 2031)}
        table.write_text(json.dumps(rows), encoding="utf-8")
        assert resolve_intensity("FRA", None).g_per_kwh == 56.039

    def test_a_processor_table_that_is_no_csv_is_not_used(self, install: Install) -> None:
        table = install("99.1") / "hardware" / "cpu_power.csv"
        table.write_text("Name,TDP\n" + "x" * 200_000 + ",1\n", encoding="utf-8")
        assert len(tables.processor_tdps()) > 4000

    def test_a_release_that_is_installed_in_part_is_not_used(self, tmp_path: Path, install: Install) -> None:
        install("99.1")
        (tmp_path / "site" / "codecarbon-99.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\n", encoding="utf-8")
        assert resolve_intensity("FRA", None).g_per_kwh == 56.039

    def test_a_newer_release_of_which_little_is_left_is_not_used(self, install: Install) -> None:
        install("99.1")
        assert resolve_intensity("Virginia", None).g_per_kwh == pytest.approx(244.758, rel=1e-5)
        assert resolve_intensity("europe-west9", None).g_per_kwh == 34
        assert resolve_intensity(None, None).g_per_kwh == 475

    @pytest.mark.parametrize(
        ("newer", "older"), [("3.10.0", "3.9.9"), ("4", "3.99"), ("3.3.2.1", "3.3.2"), ("3.4.0rc1", "3.3.9")]
    )
    def test_releases_are_compared_by_their_numbers(self, newer: str, older: str) -> None:
        assert tables._order(newer) > tables._order(older)


def test_threads_that_read_the_tables_first_do_not_hurt_each_other(*, full: bool) -> None:
    program = """
import sys
from concurrent.futures import ThreadPoolExecutor
sys.setswitchinterval(1e-6)
from ml_energy_callbacks import EnergyMeter
with ThreadPoolExecutor(24) as pool:
    places = ["FRA", "US-VA", "CA-QC", "SE3", "gcp:us-east1", "Germany", None, "CN-BJ"] * 3
    assert len(list(pool.map(lambda place: EnergyMeter(backends=[], location=place, verbose=False), places))) == 24
"""
    for _ in range(40 if full else 2):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_tables_are_read_from_an_archive(tmp_path: Path) -> None:
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in PACKAGE.rglob("*"):
            if path.suffix in {".py", ".json"}:
                file.write(path, path.relative_to(PACKAGE.parent))
    program = f"""
import sys
sys.path.insert(0, {str(archive)!r})
from ml_energy_callbacks import EnergyMeter
with EnergyMeter(backends=[], location="FRA", verbose=False) as meter:
    pass
assert sys.modules["ml_energy_callbacks"].__file__.startswith({str(archive)!r})
print(meter.record.carbon.intensity_g_per_kwh)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert float(done.stdout) == 56.039


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_an_impossible_intensity_is_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match="carbon_intensity"):
        resolve_intensity(None, value)


def test_zero_has_no_sign() -> None:
    assert math.copysign(1, resolve_intensity(None, -0.0).g_per_kwh) == 1
