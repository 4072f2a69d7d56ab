"""Generate the package's tables from the installed codecarbon, and list the changes of another release.

    python tests/release_data.py [--countries country-codes.csv]

``--countries`` also generates the names of countries, from ``data/country-codes.csv`` of
https://github.com/datasets/country-codes.
"""

import argparse
import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import msgspec

from ml_energy_callbacks.codecarbon_data import DATA, KINDS, Kind, Processors, Table, installed_release

NOTICE = "LICENSE-codecarbon.txt"

LICENCES: Mapping[str, Mapping[str, str]] = {
    "countries": {
        "title": "Carbon intensity of countries' electricity in g CO2e/kWh, and their generation in TWh",
        "url": "https://ourworldindata.org/energy",
        "licence": "CC-BY-4.0",
    },
    "us_states": {
        "title": "Emissions of the electricity generated in US states in lb CO2e/MWh",
        "url": "https://www.epa.gov/egrid/download-data",
        "licence": "public domain (a work of the United States government)",
    },
    "canadian_provinces": {
        "title": "Shares of the sources of Canadian provinces' electricity in percent",
        "url": "https://doi.org/10.35002/zjr8-8x75 (Canada Energy Regulator, Canada's Energy Future, data appendices)",
        "licence": "Open Government Licence - Canada",
    },
    "chinese_provinces": {
        "title": "Average emission factors of Chinese provinces' electricity in g CO2/kWh",
        "url": "https://www.mee.gov.cn/xxgk2018/xxgk/xxgk01/202512/t20251231_1139517.html",
        "licence": "no copyright (an announcement of the government)",
    },
    "nordic_zones": {
        "title": "Carbon intensity of the electricity generated in Nordic bidding zones in g CO2e/kWh",
        "url": "https://doi.org/10.5281/zenodo.22285397, by data of https://transparency.entsoe.eu",
        "licence": "MIT, as codecarbon's table",
    },
    "google_regions": {
        "title": "Carbon intensity of the electricity of Google Cloud's regions in g CO2e/kWh",
        "url": "https://cloud.google.com/sustainability/region-carbon",
        "licence": "MIT, as codecarbon's table",
        "years": "not stated",
    },
    "sources": {
        "title": "Carbon intensity of sources of electricity, and the world's average, in g CO2e/kWh",
        "url": "each row's own",
        "licence": "MIT, as codecarbon's table",
        "years": "2011 (WNA), 2014 (IPCC), 2018 (IEA); others not stated",
    },
    "processors": {
        "title": "Thermal design power of processors in W",
        "url": "https://www.intel.com/content/www/us/en/ark.html, https://www.amd.com/en/products/specifications",
        "licence": "MIT, as codecarbon's table",
        "years": "as published when the release was made",
    },
}
"""Properties of the tables that codecarbon's files do not state."""

MORE_NAMES: Mapping[str, Sequence[str]] = {
    "BIH": ["Republic of Bosnia and Herzegovina"],
    "CIV": ["Republic of Côte d'Ivoire"],
    "COD": ["Congo, The Democratic Republic of the"],
    "ERI": ["the State of Eritrea"],
    "FLK": ["Falkland Islands (Malvinas)"],
    "GBR": ["United Kingdom"],
    "GUY": ["Republic of Guyana"],
    "HKG": ["Hong Kong Special Administrative Region of China"],
    "ITA": ["Italian Republic"],
    "KOR": ["Korea, Republic of"],
    "MAC": ["Macao Special Administrative Region of China"],
    "MDA": ["Moldova, Republic of"],
    "MMR": ["Republic of Myanmar"],
    "MNP": ["Commonwealth of the Northern Mariana Islands"],
    "NPL": ["Federal Democratic Republic of Nepal"],
    "PRK": ["Korea, Democratic People's Republic of"],
    "PSE": ["Palestine, State of", "the State of Palestine"],
    "RWA": ["Rwandese Republic"],
    "SHN": ["Saint Helena, Ascension and Tristan da Cunha"],
    "SJM": ["Svalbard and Jan Mayen"],
    "SOM": ["Federal Republic of Somalia"],
    "TUR": ["Republic of Türkiye"],
    "TWN": ["Taiwan, Province of China"],
    "TZA": ["Tanzania, United Republic of"],
    "USA": ["United States"],
    "VAT": ["Holy See (Vatican City State)"],
    "VGB": ["Virgin Islands, British"],
    "VIR": ["Virgin Islands, U.S.", "Virgin Islands of the United States"],
    "WLF": ["Wallis and Futuna"],
}
"""Names of ISO 3166-1 and of the countries themselves that the list lacks."""


def changes(ours: Table[Any], theirs: Table[Any]) -> list[str]:
    """Return the rows in which two tables differ, one line each, with the old and the new values."""
    before, now = dict(_figures(ours.rows)), dict(_figures(theirs.rows))
    found = [] if ours.source == theirs.source else [f"source: {ours.source!r} -> {theirs.source!r}"]
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key, "none"), now.get(key, "none")
        if old != new:
            found.append(f"{key}: {old} -> {new}")
    return found


def _figures(rows: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield the key and the values of each row."""
    for row in rows:
        if isinstance(row, Processors):
            yield from ((name, f"{row.watts:g} W") for name in row.names)
        else:
            key, *figures = msgspec.to_builtins(row)
            yield key, json.dumps(figures, ensure_ascii=False)


def read_installed(kind: Kind[Any]) -> Table[Any]:
    """Return the installed codecarbon's table, whatever its release."""
    found = installed_release()
    if found is None:
        msg = "codecarbon is not installed: pip install codecarbon"
        raise SystemExit(msg)
    folder, release = found
    source, rows = kind.read(folder)
    return Table(source, release, rows, installed=True)


def read_names(path: Path) -> list[list[Any]]:
    """Return the codes and English names of the countries in a file of the project country-codes."""
    rows = []
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            code = row["ISO3166-1-Alpha-3"]
            if not (code and row["ISO3166-1-Alpha-2"] and row["ISO3166-1-numeric"]):
                continue
            told = [row[f"UNTERM English {form}"] for form in ("Short", "Formal")]
            names = [name for each in (row["official_name_en"], row["CLDR display name"], *told) for name in _forms(each)]
            names += MORE_NAMES.get(code, [])
            rows.append([row["ISO3166-1-Alpha-2"], code, row["ISO3166-1-numeric"].zfill(3), list(dict.fromkeys(names))])
    return sorted(rows, key=lambda row: row[1])


def _forms(name: str) -> Iterator[str]:
    """Yield a name without its article, and "X (Y of)" also as "X", "X, Y of" and "Y of X"."""
    plain = " ".join(name.split()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    name = plain.removesuffix(" *").removesuffix(" (the)").removeprefix("the ")
    if not name:
        return
    short, bracket, rest = name.partition(" (")
    rest = rest.removesuffix(")")
    if bracket and rest.endswith(" of"):
        yield from (short, f"{short}, {rest}", f"{rest} {short}")
    else:
        yield name


def write(name: str, head: Mapping[str, Any], rows: Sequence[Any]) -> None:
    """Write a table with a row in each line."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n" for key, value in head.items()]
    body = ",\n".join(f"    {json.dumps(row, ensure_ascii=False, separators=(',', ':'))}" for row in rows)
    (DATA / f"{name}.json").write_text("{\n" + "".join(lines) + '  "rows": [\n' + body + "\n  ]\n}\n", encoding="utf-8")


def main() -> None:
    """Write all tables."""
    parser = argparse.ArgumentParser(description="Generate the package's tables from the codecarbon that is installed.")
    parser.add_argument("--countries", type=Path, help="country-codes.csv, for the names of countries")
    countries = parser.parse_args().countries
    DATA.mkdir(exist_ok=True)
    for kind in KINDS:
        table = read_installed(kind)
        stated = LICENCES[kind.name]
        head = {
            "title": stated["title"],
            "source": table.source,
            "url": stated["url"],
            "years": stated.get("years") or _years(table.rows),
            "licence": stated["licence"],
            "codecarbon": table.codecarbon,
            "columns": kind.row.__struct_fields__,
        }
        write(kind.name, head, msgspec.to_builtins(table.rows))
    licence = next(path for path in distribution("codecarbon").files or [] if path.name == "LICENSE")
    shutil.copyfile(str(licence.locate()), DATA / NOTICE)
    if countries is not None:
        rows = read_names(countries)
        head = {
            "title": "Codes of countries by ISO 3166-1, and their English names",
            "source": "Country Codes, by the United Nations' UNTERM and Statistics Division, and Unicode's CLDR",
            "url": "https://github.com/datasets/country-codes",
            "years": "2026",
            "licence": "PDDL-1.0",
            "codecarbon": None,
            "columns": ["alpha_2", "alpha_3", "numeric", "names"],
        }
        write("country_names", head, rows)


def _years(rows: Sequence[Any]) -> str:
    years = sorted({row.year for row in rows})
    return f"{years[0]}" if len(years) == 1 else f"{years[0]} to {years[-1]}, each row's own"


if __name__ == "__main__":
    main()
