"""Places and the carbon intensity of their electricity, from codecarbon's tables; no network is asked.

A place is a country, a US state, a Canadian or Chinese province, a Nordic bidding zone or a cloud's region. What stands behind
a figure differs from table to table, so that each keeps its source, its year and its basis.
"""

import difflib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from ml_energy_callbacks.carbon.cloud_regions import AWS, AZURE
from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.codecarbon_data import (
    canadian_provinces,
    chinese_provinces,
    cloud_regions,
    energy_mixes,
    nordic_zones,
    source_intensities,
    us_states,
    world_average,
)
from ml_energy_callbacks.exceptions import LocationError
from ml_energy_callbacks.metrics import Basis

GRAMS_PER_POUND = 453.59237
"""Exact, by the international yard and pound agreement of 1959."""

_CANADA = {
    "alberta": "CA-AB",
    "british columbia": "CA-BC",
    "manitoba": "CA-MB",
    "new brunswick": "CA-NB",
    "newfoundland and labrador": "CA-NL",
    "northwest territories": "CA-NT",
    "nova scotia": "CA-NS",
    "nunavut": "CA-NU",
    "ontario": "CA-ON",
    "prince edward island": "CA-PE",
    "quebec": "CA-QC",
    "saskatchewan": "CA-SK",
    "yukon": "CA-YT",
}
"""ISO 3166-2."""

_CANADIAN_SOURCES = {
    "naturalGas": "natural_gas",
    "nuclear": "nuclear",
    "petroleum": "petroleum",
    "biomass": "biomass",
    "coal": "coal",
    "other": "fossil",
    "solar": "solar",
    "tidal": "hydroelectricity",
    "wind": "wind",
    "hydro": "hydroelectricity",
}
"""Whose intensity each share is given; nobody publishes that of `other` and `tidal`, which are small."""

_RENEWABLE = ("biomass", "solar", "tidal", "wind", "hydro")

_COUNTRIES = {"US": "USA", "CA": "CAN", "CN": "CHN", "SE": "SWE", "NO": "NOR"}
"""Of the places that are a part of one, by the first two letters of their codes."""

_ALSO_CALLED = {"uk": "GBR", "great britain": "GBR"}
"""Names that people use, and no table has; the nearest to UK would be Ukraine."""

_MISSPELT = {"me-cenrtal1": "me-central1"}
"""In codecarbon's table of Google's regions."""


_DOUBT: Mapping[Basis, float] = {"lifecycle": 0.2, "direct": 0.2, "mixed": 0.3, "unknown": 0.3}
"""How far a place's mean of a year may be off the hours of a run, as a share; our assumption."""


class _Place(NamedTuple):
    """A place's name in English, and its electricity."""

    name: str
    intensity: CarbonIntensity


def find_place(location: str, country: str | None = None) -> CarbonIntensity:
    """Return the intensity of the place that somebody names: by its code, its English name, or a cloud's name of a region.

    Args:
        location: The place.
        country: ISO-3 code of the country that is meant where places of several bear the name, or None.

    Raises:
        LocationError: There is none, or there are several; the message names the nearest, or all of them.
    """
    name = str(location)  # YAML reads an unquoted NO, Norway, as False
    wanted = _plain(name)
    codes = _index().get(wanted) or _by_pycountry(name)
    codes = [code for code in codes if country_of(code) == country] or codes
    if len(codes) == 1:
        return _places()[codes[0]].intensity
    if codes:
        msg = f"{location!r} may be {' or '.join(f'{_places()[code].name} ({code})' for code in codes)}; give the code."
        raise LocationError(msg)
    near = difflib.get_close_matches(wanted, list(_index()), n=3)
    names = dict.fromkeys(f"{_places()[code].name} ({code})" for each in near for code in _index()[each])
    hint = f"; near it: {', '.join(names)}" if names else ""
    msg = (
        f"There is no place {location!r}{hint}. Give a country ('FRA'), a state or province ('US-VA', 'CA-QC'), "
        "a cloud's region ('aws:eu-west-3'), or carbon_intensity=<g per kWh>."
    )
    raise LocationError(msg)


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.casefold())  # accents apart
    return " ".join("".join(letter for letter in letters if not unicodedata.combining(letter)).split())


def _by_pycountry(location: str) -> list[str]:
    """Return the country of an official name or a two-letter code."""
    import pycountry  # noqa: PLC0415 - 40 ms, wanted only where somebody names a place

    try:
        code: str = pycountry.countries.lookup(location.strip()).alpha_3
    except LookupError:
        return []
    if code not in _places():
        msg = f"No carbon intensity of {location!r} is known; give carbon_intensity=<g per kWh>."
        raise LocationError(msg)
    return [code]


@cache
def _places() -> Mapping[str, _Place]:
    """Return every place by its code."""
    places = dict(_countries())
    for part in (_states, _provinces, _chinese, _nordic, _google):
        try:
            places |= dict(part())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a table that another release moved or changed
            continue
    for provider, regions in (("aws", AWS), ("azure", AZURE)):
        for region, code in regions.items():
            inside = places.get(code) or places.get(_COUNTRIES.get(code[:2], code))
            if inside is None:
                continue
            name = f"{provider}:{region}"
            note = f"{name} is taken for {inside.name} ({inside.intensity.location}): the cloud publishes no intensity of it."
            places[name] = _Place(name, replace(inside.intensity, location=name, note=note))
    return {
        code: place._replace(intensity=replace(place.intensity, relative_uncertainty=_DOUBT[place.intensity.basis]))
        for code, place in places.items()
    }


@cache
def _index() -> Mapping[str, list[str]]:
    """Return the codes of the places that bear a name, in plain letters."""
    index = {name: [code] for name, code in _ALSO_CALLED.items() if code in _places()}
    for code, place in _places().items():
        _, _, region = code.partition(":")
        for name in dict.fromkeys((_plain(code), _plain(region or place.name))):
            index.setdefault(name, []).append(code)
    return index


def country_of(code: str) -> str | None:
    """Return the ISO-3 code of a place's country, by the place's whole code or the country's two letters; else None."""
    import pycountry  # noqa: PLC0415 - as above

    provider, _, region = code.partition(":")
    code = {"aws": AWS, "azure": AZURE, "gcp": _google_countries()}.get(provider, {}).get(region, code)
    if code in energy_mixes():
        return code
    if code in _places():
        return _COUNTRIES.get(code[:2])
    country = pycountry.countries.get(alpha_2=code) if code.isupper() else None
    return country.alpha_3 if country and country.alpha_3 in energy_mixes() else None


def _countries() -> Iterator[tuple[str, _Place]]:
    source = "Our World in Data, after Ember and the Energy Institute; codecarbon's table"
    for code, mix in energy_mixes().items():
        yield (
            code,
            _Place(
                str(mix["country_name"]),
                CarbonIntensity(
                    float(mix["carbon_intensity"]),
                    code,
                    source,
                    int(mix["year"]),
                    basis="lifecycle",
                    renewable_share=_share(mix.get("renewables_TWh"), mix.get("total_TWh")),
                    low_carbon_share=_share(mix.get("low_carbon_TWh"), mix.get("total_TWh")),
                ),
            ),
        )


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else min(1.0, max(0.0, part / whole))


def _states() -> Iterator[tuple[str, _Place]]:
    table = us_states()
    publisher, year = table["_source"]["name"], int(table["_source"]["year"])
    for name, row in table.items():
        if not name.startswith("_") and len(row["regionCode"]) == len("VA"):  # one row is the whole country's
            code, grams_per_kwh = f"US-{row['regionCode']}", float(row["emissions"]) * GRAMS_PER_POUND / 1000
            source = f"{publisher}; codecarbon's table"
            yield code, _Place(name.title(), CarbonIntensity(grams_per_kwh, code, source, year, basis="direct"))


def _provinces() -> Iterator[tuple[str, _Place]]:
    (table, year), intensities = canadian_provinces(), source_intensities()
    for name, code in _CANADA.items():
        mix = {source: float(share) for source, share in table[name].items()}
        total = mix["total"]
        renewable = sum(mix[source] for source in _RENEWABLE)
        yield (
            code,
            _Place(
                name.title(),
                CarbonIntensity(
                    sum(mix[source] / total * intensities[kind] for source, kind in _CANADIAN_SOURCES.items()),
                    code,
                    "the province's mix times the intensity of each source; codecarbon's tables",
                    year,
                    basis="mixed",
                    renewable_share=_share(renewable, total),
                    low_carbon_share=_share(renewable + mix["nuclear"], total),
                ),
            ),
        )


def _chinese() -> Iterator[tuple[str, _Place]]:
    source = "Ministry of Ecology and Environment and National Bureau of Statistics of China; codecarbon's table"
    for code, row in chinese_provinces()["data"].items():
        factor, year = float(row["emission_factor"]), int(row["year"])
        yield code, _Place(str(row["description"]), CarbonIntensity(factor, code, source, year, basis="direct"))


def _nordic() -> Iterator[tuple[str, _Place]]:
    source = "ENTSO-E's generation by type times the intensity of each source; codecarbon's table"
    for zone, row in nordic_zones()["data"].items():
        if zone != "FI":  # the whole country, of which the table of countries has a newer figure
            factor, year = float(row["emission_factor"]), int(row["year"])
            yield zone, _Place(str(row["description"]), CarbonIntensity(factor, zone, source, year, basis="mixed"))


def _google() -> Iterator[tuple[str, _Place]]:
    for row in cloud_regions():
        if row["provider"] == "gcp":
            code = f"gcp:{_google_region(row)}"
            source = f"{row['source']}; codecarbon's table"
            yield (
                code,
                _Place(f"Google Cloud in {row['country_name']}", CarbonIntensity(float(row["impact"]), code, source, None)),
            )


def _google_countries() -> Mapping[str, str]:
    return {_google_region(row): row["countryIsoCode"] for row in cloud_regions() if row["provider"] == "gcp"}


def _google_region(row: Mapping[str, str]) -> str:
    return _MISSPELT.get(row["region"], row["region"])


def world() -> CarbonIntensity:
    """Return the world's average, for where nobody names a place."""
    average, source = world_average()
    return CarbonIntensity(average, None, f"world average, {source}", None, assumed=True, basis="direct")
