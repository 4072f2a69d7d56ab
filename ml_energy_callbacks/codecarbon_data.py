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


@cache
def _folder() -> Path:
    spec = find_spec("codecarbon")
    if spec is None or not spec.submodule_search_locations:
        msg = "codecarbon is not installed, whose tables of carbon intensity and processors are needed: pip install codecarbon"
        raise ConfigurationError(msg)
    return Path(spec.submodule_search_locations[0]) / "data"


@cache
def energy_mixes() -> dict[str, dict[str, Any]]:
    """Return each country's electricity by its ISO-3 code; ``carbon_intensity`` is in g CO2e per kWh."""
    mixes: dict[str, dict[str, Any]] = json.loads(_read("private_infra", "global_energy_mix.json"))
    return mixes


@cache
def world_average() -> tuple[float, str]:
    """Return the world's average intensity in g CO2e per kWh, and its source."""
    table = json.loads(_read("private_infra", "carbon_intensity_per_source.json"))
    return float(table["world_average"]), str(table["world_average_source"])


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
