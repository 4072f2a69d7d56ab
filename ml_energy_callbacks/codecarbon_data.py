"""Tables of carbon intensities, countries and processors: the package's own, or those of a newer installed codecarbon.

The package's data are generated from a release of codecarbon by ``tests/release_data.py``. If a newer release is installed,
each of its tables with the known format is used instead. Its files are read; codecarbon is never imported, because that runs
subprocesses, opens NVML and reconfigures logging.
"""

import csv
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from ml_energy_callbacks.exceptions import ConfigurationError

DATA = Path(__file__).with_name("data")
"""The package's tables, one JSON file each; its README lists their sources and licences."""

_INTENSITIES = "private_infra"
"""codecarbon's folder of carbon intensities, which has a subfolder for each year of some tables."""

_GOOGLE = "gcp"

_REQUIRED_SOURCES = {
    "biomass", "coal", "fossil", "hydroelectricity", "natural_gas", "nuclear", "petroleum", "solar", "wind", "world_average"
}  # fmt: skip


class Country(msgspec.Struct, array_like=True, frozen=True):
    """A country's electricity.

    Attributes:
        code: ISO 3166-1's three letters.
        name: English name.
        g_per_kwh: Carbon intensity in g CO2e per kWh.
        year: Year of the figures.
        renewables_twh: Renewable generation in TWh; None if unknown.
        low_carbon_twh: Generation by renewables and nuclear power in TWh; None if unknown.
        total_twh: Total generation in TWh; None if unknown.
    """

    code: str
    name: str
    g_per_kwh: float
    year: int
    renewables_twh: float | None = None
    low_carbon_twh: float | None = None
    total_twh: float | None = None


class State(msgspec.Struct, array_like=True, frozen=True):
    """A US state: its two letters, its name in lower case, and its emissions in lb CO2e per MWh in a year."""

    code: str
    name: str
    lb_per_mwh: float
    year: int


class Mix(msgspec.Struct, frozen=True, rename="camel"):
    """Shares of the sources of electricity in percent, and their sum."""

    natural_gas: float
    nuclear: float
    petroleum: float
    biomass: float
    coal: float
    other: float
    solar: float
    tidal: float
    total: float
    wind: float
    hydro: float


class Province(msgspec.Struct, array_like=True, frozen=True):
    """A Canadian province: its name in lower case, and the mix of its electricity in a year."""

    name: str
    year: int
    mix: Mix


class Zone(msgspec.Struct, array_like=True, frozen=True):
    """A Chinese province or a Nordic bidding zone: its code, its name, and its intensity in g per kWh in a year."""

    code: str
    name: str
    g_per_kwh: float
    year: int


class GoogleRegion(msgspec.Struct, array_like=True, frozen=True):
    """A region of Google Cloud, its country's name and ISO-3 code, its intensity in g CO2e per kWh, and the publisher."""

    region: str
    country_name: str
    country: str
    g_per_kwh: float
    source: str


class SourceIntensity(msgspec.Struct, array_like=True, frozen=True):
    """Intensity of a source of electricity, or of ``world_average``, in g CO2e per kWh, and the publisher."""

    name: str
    g_per_kwh: float
    source: str


class Processors(msgspec.Struct, array_like=True, frozen=True):
    """A thermal design power in W, and the names of the processors that have it."""

    watts: float
    names: Sequence[str]


class Microarchitecture(msgspec.Struct, array_like=True, frozen=True):
    """Power of a microarchitecture's processors, by published measurements of servers.

    Attributes:
        name: Its name.
        vendor: CPUID's vendor, such as ``AuthenticAMD``; empty for servers of any microarchitecture.
        family: CPUID's family.
        models: CPUID's models.
        steppings: First and last of CPUID's steppings.
        origin: The measurements, in words.
        results: Number of the measurements.
        tdp_per_thread: Thermal design power for each hardware thread of the measured parts in W.
        gb_per_thread: Memory of the measured servers for each hardware thread in GB.
        idle_uncertainty: Half-width of the interval of an idle server's power, as a share of the power.
        load_uncertainty: The same under load.
        watts: Power for each hardware thread of the measured parts at 0, 10 ... 100 % load in W, without memory.
    """

    name: str
    vendor: str
    family: int
    models: Sequence[int]
    steppings: tuple[int, int]
    origin: str
    results: int
    tdp_per_thread: float
    gb_per_thread: float
    idle_uncertainty: float
    load_uncertainty: float
    watts: Sequence[float]


class CountryNames(msgspec.Struct, array_like=True, frozen=True):
    """A country's two-letter, three-letter and three-digit codes of ISO 3166-1, and its English names."""

    alpha_2: str
    alpha_3: str
    numeric: str
    names: Sequence[str]


Row = TypeVar("Row")


class Table(msgspec.Struct, Generic[Row], frozen=True):
    """A table.

    Attributes:
        source: Publisher of the figures, in words.
        codecarbon: The release of codecarbon that contains it; None if it is not from codecarbon.
        rows: Its rows.
        installed: Whether it is from the installed codecarbon; else it is the package's own.
    """

    source: str
    codecarbon: str | None
    rows: Sequence[Row]
    installed: bool = False

    @property
    def origin(self) -> str:
        """The origin of the table, in words."""
        return f"table of {'the installed ' if self.installed else ''}codecarbon {self.codecarbon}"


@dataclass(frozen=True, slots=True)
class Kind(Generic[Row]):
    """A kind of codecarbon's tables.

    Attributes:
        name: Name of the package's file, without its suffix.
        row: Type of its rows.
        read: Returns the publisher and the rows from codecarbon's data folder.
        key: Field that identifies a row, of which a newer table has to have all that the package's own has; None if rows may
            disappear.
    """

    name: str
    row: type[Row]
    read: Callable[[Path], tuple[str, Sequence[Row]]]
    key: str | None


@cache
def installed_release() -> tuple[Path, str] | None:
    """Return the data folder and the release of the installed codecarbon; None if it is not installed."""
    try:
        spec = find_spec("codecarbon")
    except ValueError:  # a module of another origin replaces it
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    from importlib.metadata import PackageNotFoundError, metadata  # noqa: PLC0415 - 20 ms, needed only if it is installed

    try:
        release = metadata("codecarbon").json.get("version")
    except PackageNotFoundError:
        return None
    # An interrupted installation has no release.
    return (Path(spec.submodule_search_locations[0]) / "data", release) if isinstance(release, str) else None


def our_table(kind: Kind[Row]) -> Table[Row]:
    """Return the package's own table.

    Raises:
        ConfigurationError: The package was installed without it.
    """
    return _read_own(kind.name)


def _read_own(name: str) -> Table[Any]:
    try:
        data = pkgutil.get_data("ml_energy_callbacks", f"{DATA.name}/{name}.json")  # from an archive, too
    except OSError as error:
        msg = f"The table {name} of ml-energy-callbacks cannot be read ({error.strerror or error}): install the package again."
        raise ConfigurationError(msg) from None
    table: Table[Any] = _OWN[name].decode(data or b"")
    return table


def _newest(kind: Kind[Row]) -> Table[Row]:
    """Return the installed codecarbon's table if it is newer and has the known format, else the package's own."""
    ours, installed = our_table(kind), installed_release()
    if installed is None or _order(installed[1]) <= _order(str(ours.codecarbon)):
        return ours
    folder, release = installed
    try:
        source, rows = kind.read(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error):  # its place or format has changed
        return ours
    if kind.key is not None and not {getattr(row, kind.key) for row in ours.rows} <= {getattr(row, kind.key) for row in rows}:
        return ours
    return Table(source, release, rows, installed=True)


def _order(release: str) -> list[int]:
    found = re.match(r"\d+(?:\.\d+)*", release)
    return [int(part) for part in found[0].split(".")] if found else []


# ----------------------------------------------------------------------------------------------------- codecarbon's own format


_Intensity = Annotated[float, msgspec.Meta(ge=0, le=5000)]
"""In g per kWh, or lb per MWh; the highest of all sources is about 1,200 g per kWh."""


class _Mix(
    msgspec.Struct,
    rename={"renewables_twh": "renewables_TWh", "low_carbon_twh": "low_carbon_TWh", "total_twh": "total_TWh"},
):
    carbon_intensity: _Intensity
    country_name: str
    year: int
    renewables_twh: float | None = None
    low_carbon_twh: float | None = None
    total_twh: float | None = None


class _Publisher(msgspec.Struct):
    name: str
    year: int


class _State(msgspec.Struct, rename="camel"):
    emissions: _Intensity
    region_code: str


class _Factor(msgspec.Struct):
    emission_factor: _Intensity
    description: str
    year: int


class _Factors(msgspec.Struct):
    data: dict[str, _Factor]


def _read_countries(folder: Path) -> tuple[str, Sequence[Country]]:
    mixes = _MIXES.decode((folder / _INTENSITIES / "global_energy_mix.json").read_bytes())
    rows = [
        Country(
            code,
            mix.country_name,
            mix.carbon_intensity,
            mix.year,
            mix.renewables_twh,
            mix.low_carbon_twh,
            mix.total_twh,
        )
        for code, mix in mixes.items()
    ]
    return "Our World in Data, after Ember and the Energy Institute", rows


def _read_states(folder: Path) -> tuple[str, Sequence[State]]:
    path, _ = _latest(folder, "usa_emissions.json")
    table = _RAW.decode(path.read_bytes())
    publisher = _PUBLISHER.decode(table.pop("_source"))
    states = {name: _STATE.decode(row) for name, row in table.items() if not name.startswith("_")}
    rows = [
        State(state.region_code, name, state.emissions, publisher.year)
        for name, state in states.items()
        if len(state.region_code) == len("VA")  # one row is for the whole country
    ]
    return publisher.name, rows


def _read_provinces(folder: Path) -> tuple[str, Sequence[Province]]:
    path, year = _latest(folder, "canada_energy_mix.json")
    mixes = _PROVINCES.decode(path.read_bytes())
    return "the province's mix times the intensity of each source", [Province(name, year, mix) for name, mix in mixes.items()]


def _read_chinese(folder: Path) -> tuple[str, Sequence[Zone]]:
    path, _ = _latest(folder, "china_provincial_emissions.json")
    return "Ministry of Ecology and Environment and National Bureau of Statistics of China", _zones(path)


def _read_nordic(folder: Path) -> tuple[str, Sequence[Zone]]:
    path = folder / _INTENSITIES / "nordic_emissions.json"
    return "ENTSO-E's generation by type times the intensity of each source", _zones(path)


def _zones(path: Path) -> Sequence[Zone]:
    factors = _FACTORS.decode(path.read_bytes()).data
    return [Zone(code, each.description, each.emission_factor, each.year) for code, each in factors.items()]


def _read_google(folder: Path) -> tuple[str, Sequence[GoogleRegion]]:
    text = (folder / "cloud" / "impact.csv").read_text(encoding="utf-8-sig")
    rows = [
        GoogleRegion(row["region"], row["country_name"], row["countryIsoCode"], _intensity(row["impact"]), row["source"])
        for row in csv.DictReader(text.splitlines())
        if row["provider"] == _GOOGLE
    ]
    return "Google Cloud, carbon data of its regions", rows


def _read_sources(folder: Path) -> tuple[str, Sequence[SourceIntensity]]:
    path = folder / _INTENSITIES / "carbon_intensity_per_source.json"
    table = _VALUES.decode(path.read_bytes())
    rows = [
        SourceIntensity(name, _intensity(value), str(table[f"{name}_source"]))
        for name, value in table.items()
        if isinstance(value, int | float)
    ]
    if missing := _REQUIRED_SOURCES.difference(row.name for row in rows):
        raise LookupError(missing)
    return "several: each row names its own", rows


def _read_processors(folder: Path) -> tuple[str, Sequence[Processors]]:
    """Read the processors' thermal design power; rows without a plain positive number are left out."""
    text = (folder / "hardware" / "cpu_power.csv").read_text(encoding="utf-8")
    tdps: dict[str, float] = {}
    for name, watts in csv.reader(text.splitlines()[1:]):
        try:
            tdp = float(watts)
        except ValueError:
            continue
        if tdp > 0:
            tdps[name] = tdp
    names: dict[float, list[str]] = {}
    for name, tdp in tdps.items():
        names.setdefault(tdp, []).append(name)
    return "Intel's and AMD's specifications", [Processors(watts, names[watts]) for watts in sorted(names)]


def _intensity(value: str | float) -> float:
    """Return an intensity in g CO2e per kWh.

    Raises:
        ValueError: It is no number, or not a plausible one.
    """
    return _INTENSITY.decode(str(value))


def _latest(folder: Path, name: str) -> tuple[Path, int]:
    """Return the latest year's file with this name, and the year.

    Raises:
        FileNotFoundError: No year has such a file.
    """
    found = sorted(path for path in folder.glob(f"{_INTENSITIES}/*/{name}") if path.parent.name.isdigit())
    if not found:
        raise FileNotFoundError(name)
    return found[-1], int(found[-1].parent.name)


COUNTRIES = Kind("countries", Country, _read_countries, "code")
US_STATES = Kind("us_states", State, _read_states, "code")
CANADIAN_PROVINCES = Kind("canadian_provinces", Province, _read_provinces, "name")
CHINESE_PROVINCES = Kind("chinese_provinces", Zone, _read_chinese, "code")
NORDIC_ZONES = Kind("nordic_zones", Zone, _read_nordic, "code")
GOOGLE_REGIONS = Kind("google_regions", GoogleRegion, _read_google, "region")
SOURCES = Kind("sources", SourceIntensity, _read_sources, "name")
PROCESSORS = Kind("processors", Processors, _read_processors, None)

KINDS: Sequence[Kind[Any]] = (
    COUNTRIES,
    US_STATES,
    CANADIAN_PROVINCES,
    CHINESE_PROVINCES,
    NORDIC_ZONES,
    GOOGLE_REGIONS,
    SOURCES,
    PROCESSORS,
)
"""All kinds of codecarbon's tables."""

_COUNTRY_NAMES = "country_names"
_MICROARCHITECTURES = "microarchitectures"

# Made once, and before any thread: msgspec learns a type when it first decodes it, which two threads must not do at once.
_OWN: Mapping[str, msgspec.json.Decoder[Table[Any]]] = {
    **{kind.name: msgspec.json.Decoder(Table[kind.row]) for kind in KINDS},  # type: ignore[name-defined]
    _COUNTRY_NAMES: msgspec.json.Decoder(Table[CountryNames]),
    _MICROARCHITECTURES: msgspec.json.Decoder(Table[Microarchitecture]),
}
_MIXES, _PROVINCES = msgspec.json.Decoder(dict[str, _Mix]), msgspec.json.Decoder(dict[str, Mix])
_RAW, _PUBLISHER = msgspec.json.Decoder(dict[str, msgspec.Raw]), msgspec.json.Decoder(_Publisher)
_STATE, _FACTORS = msgspec.json.Decoder(_State), msgspec.json.Decoder(_Factors)
_VALUES, _INTENSITY = msgspec.json.Decoder(dict[str, Any]), msgspec.json.Decoder(_Intensity)


# -------------------------------------------------------------------------------------------------------------------- tables


@cache
def countries() -> Table[Country]:
    """Return the countries."""
    return _newest(COUNTRIES)


@cache
def countries_by_code() -> Mapping[str, Country]:
    """Return the countries by their ISO-3 codes."""
    return {country.code: country for country in countries().rows}


@cache
def us_states() -> Table[State]:
    """Return the US states, without the row of the whole country."""
    return _newest(US_STATES)


@cache
def canadian_provinces() -> Table[Province]:
    """Return the Canadian provinces."""
    return _newest(CANADIAN_PROVINCES)


@cache
def chinese_provinces() -> Table[Zone]:
    """Return the Chinese provinces by ISO 3166-2 code; their intensity is in g CO2 per kWh."""
    return _newest(CHINESE_PROVINCES)


@cache
def nordic_zones() -> Table[Zone]:
    """Return the Nordic bidding zones; their intensity is in g CO2e per kWh."""
    return _newest(NORDIC_ZONES)


@cache
def google_regions() -> Table[GoogleRegion]:
    """Return the regions of Google Cloud."""
    return _newest(GOOGLE_REGIONS)


@cache
def sources() -> Table[SourceIntensity]:
    """Return the intensities of the sources of electricity, and the world average."""
    return _newest(SOURCES)


@cache
def source_intensities() -> Mapping[str, SourceIntensity]:
    """Return the intensity of each source of electricity by its name, such as ``natural_gas``."""
    return {row.name: row for row in sources().rows}


@cache
def processors() -> Table[Processors]:
    """Return the thermal design power of processors."""
    return _newest(PROCESSORS)


@cache
def processor_tdps() -> Mapping[str, float]:
    """Return the thermal design power of processors in W by name."""
    return {name: row.watts for row in processors().rows for name in row.names}


@cache
def country_names() -> Sequence[CountryNames]:
    """Return the codes and names of all countries of ISO 3166-1, including those without a figure."""
    return _read_own(_COUNTRY_NAMES).rows


@cache
def microarchitectures() -> Sequence[Microarchitecture]:
    """Return the power of processors by microarchitecture; the package's own, which codecarbon does not have."""
    return _read_own(_MICROARCHITECTURES).rows
