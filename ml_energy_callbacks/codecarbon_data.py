"""Where codecarbon keeps its data files, found without importing it.

Importing codecarbon runs subprocesses, opens NVML and takes over logging; its data files are all that is wanted.
"""

import csv
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ml_energy_callbacks.exceptions import ConfigurationError

_OF_A_COUNTRY = {"carbon_intensity", "country_name", "year"}
_OF_A_REGION = {"provider", "region", "country_name", "countryIsoCode", "source", "impact"}

_WORLD_AVERAGE = 475.0, "https://www.iea.org/reports/global-energy-co2-status-report-2019/emissions"
"""What the table says; for where another release moved it, as a run starts without a place, too."""


@cache
def _folder() -> Path:
    spec = find_spec("codecarbon")
    if spec is None or not spec.submodule_search_locations:
        msg = "codecarbon is not installed, whose tables of carbon intensity and processors are needed: pip install codecarbon"
        raise ConfigurationError(msg)
    return Path(spec.submodule_search_locations[0]) / "data"


@cache
def energy_mixes() -> dict[str, dict[str, Any]]:
    """Return each country's electricity by its ISO-3 code; ``carbon_intensity`` is in g CO2e per kWh.

    Where another release of codecarbon moved or changed the table, no country is known.
    """
    try:
        mixes = dict(json.loads(_read("private_infra", "global_energy_mix.json")))
    except (OSError, ValueError, TypeError):
        return {}
    return {code: mix for code, mix in mixes.items() if isinstance(mix, dict) and mix.keys() >= _OF_A_COUNTRY}


@cache
def world_average() -> tuple[float, str]:
    """Return the world's average intensity in g CO2e per kWh, and its source."""
    try:
        table = json.loads(_read("private_infra", "carbon_intensity_per_source.json"))
        return float(table["world_average"]), str(table["world_average_source"])
    except (OSError, ValueError, KeyError, TypeError):
        return _WORLD_AVERAGE


@cache
def source_intensities() -> dict[str, float]:
    """Return the intensity of each source of electricity in g CO2e per kWh by its name, such as ``natural_gas``."""
    table = json.loads(_read("private_infra", "carbon_intensity_per_source.json"))
    return {name: float(value) for name, value in table.items() if isinstance(value, int | float)}


@cache
def us_states() -> dict[str, Any]:
    """Return each US state by its name in lower case, with ``regionCode`` and ``emissions`` in lb CO2e per MWh; ``_source``."""
    return _latest("usa_emissions.json")[0]


@cache
def canadian_provinces() -> tuple[dict[str, dict[str, float]], int]:
    """Return the shares of the sources of each province's electricity in percent, by its name in lower case, and their year."""
    return _latest("canada_energy_mix.json")


@cache
def chinese_provinces() -> dict[str, Any]:
    """Return ``data``, the provinces by ISO 3166-2 code with ``emission_factor`` in g CO2 per kWh, and ``metadata``."""
    return _latest("china_provincial_emissions.json")[0]


@cache
def nordic_zones() -> dict[str, Any]:
    """Return ``data``, the bidding zones by name with ``emission_factor`` in g CO2e per kWh, and ``metadata``."""
    zones: dict[str, Any] = json.loads(_read("private_infra", "nordic_emissions.json"))
    return zones


@cache
def cloud_regions() -> list[dict[str, str]]:
    """Return the regions of clouds: ``provider``, ``region``, ``country_name``, ``source``, ``impact`` in g CO2e per kWh.

    Where another release of codecarbon moved or changed the table, no region is known.
    """
    try:
        rows = csv.DictReader(_read("cloud", "impact.csv").removeprefix("\ufeff").splitlines())
    except OSError:
        return []
    return [row for row in rows if row.keys() >= _OF_A_REGION]


def _latest(name: str) -> tuple[dict[str, Any], int]:
    """Return what the latest year's folder holds under a name, and the year.

    Raises:
        FileNotFoundError: There is none.
    """
    found = sorted(path for path in _folder().glob(f"private_infra/*/{name}") if path.parent.name.isdigit())
    if not found:
        raise FileNotFoundError(name)
    return json.loads(found[-1].read_text(encoding="utf-8")), int(found[-1].parent.name)


@cache
def processor_tdps() -> dict[str, float]:
    """Return the thermal design power of processors in W by name; rows without a plain positive number are left out."""
    tdps: dict[str, float] = {}
    for name, watts in csv.reader(_read("hardware", "cpu_power.csv").splitlines()[1:]):
        try:
            tdp = float(watts)
        except ValueError:
            continue
        if tdp > 0:
            tdps[name] = tdp
    return tdps


def _read(*parts: str) -> str:
    return _folder().joinpath(*parts).read_text(encoding="utf-8")
