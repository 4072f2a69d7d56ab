"""Places and the carbon intensity of their electricity, from the package's tables, without network requests.

A place is a country, a US state, a Canadian or Chinese province, a Nordic bidding zone or a cloud region. The tables differ in
what their figures include; therefore each figure has its source, year and basis.
"""

import difflib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from msgspec.structs import asdict

from ml_energy_callbacks.carbon.cloud_regions import AWS, AZURE
from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.codecarbon_data import (
    GoogleRegion,
    Table,
    Zone,
    canadian_provinces,
    chinese_provinces,
    countries,
    countries_by_code,
    country_names,
    google_regions,
    nordic_zones,
    source_intensities,
    sources,
    us_states,
)
from ml_energy_callbacks.exceptions import LocationError
from ml_energy_callbacks.metrics import Basis
from ml_energy_callbacks.safe_text import describe

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
    "natural_gas": "natural_gas",
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
"""The source of electricity whose intensity is used for each share; for `other` and `tidal`, which are small, none is
published."""

_RENEWABLE = ("biomass", "solar", "tidal", "wind", "hydro")

_COUNTRIES = {"US": "USA", "CA": "CAN", "CN": "CHN", "SE": "SWE", "NO": "NOR"}
"""Countries of places that are part of a country, by the first two letters of the places' codes."""

_ALSO_CALLED = {"uk": "GBR", "great britain": "GBR"}
"""Common names that no table contains; the closest match of UK would be Ukraine."""

_MISSPELT = {"me-cenrtal1": "me-central1"}
"""Misspelt names in the table of Google's regions."""


_UNCERTAINTY: Mapping[Basis, float] = {"lifecycle": 0.2, "direct": 0.2, "mixed": 0.3, "unknown": 0.3}
"""Relative uncertainty of a place's yearly mean for the hours of a run; our assumption."""


class _Place(NamedTuple):
    """A place's English name, and the intensity of its electricity."""

    name: str
    intensity: CarbonIntensity


def find_place(location: str, country: str | None = None) -> CarbonIntensity:
    """Return the intensity of a place, given by its code, its English name, or a cloud's name of a region.

    Args:
        location: The place.
        country: ISO-3 code of the country to prefer if several countries have a place of that name, or None.

    Raises:
        LocationError: No place matches, or several do; the message lists the closest or all of them.
    """
    given: object = location
    name = given if isinstance(given, str) else describe(given)  # YAML parses an unquoted NO, Norway, as False
    wanted = _normalize(name)
    codes = _codes_by_name().get(wanted) or _find_country(name)
    codes = [code for code in codes if country_of(code) == country] or codes
    if len(codes) == 1:
        return _places()[codes[0]].intensity
    if codes:
        msg = f"{describe(location)} may be {' or '.join(f'{_places()[code].name} ({code})' for code in codes)}; give the code."
        raise LocationError(msg)
    near = difflib.get_close_matches(wanted, list(_codes_by_name()), n=3)
    names = dict.fromkeys(f"{_places()[code].name} ({code})" for each in near for code in _codes_by_name()[each])
    hint = f"; similar: {', '.join(names)}" if names else ""
    msg = (
        f"The location {describe(location)} is unknown{hint}. Give a country ('FRA'), a state or province ('US-VA', 'CA-QC'), "
        "a cloud region ('aws:eu-west-3'), or carbon_intensity=<g per kWh>."
    )
    raise LocationError(msg)


def _normalize(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.casefold())  # separates accents
    return " ".join("".join(letter for letter in letters if not unicodedata.combining(letter)).split())


def _find_country(location: str) -> list[str]:
    """Return the country of an alternative name, or of a code of ISO 3166-1."""
    code = _country_codes().get(_normalize(location))
    if code is None:
        return []
    if code not in _places():
        msg = f"The carbon intensity of {describe(location)} is unknown; give carbon_intensity=<g per kWh>."
        raise LocationError(msg)
    return [code]


@cache
def _country_codes() -> Mapping[str, str]:
    """Return the ISO-3 codes of all countries by their normalised codes and names."""
    return {
        _normalize(name): country.alpha_3
        for country in country_names()
        for name in (country.alpha_2, country.alpha_3, country.numeric, *country.names)
    }


@cache
def alpha_3_codes() -> Mapping[str, str]:
    """Return the three-letter codes of all countries by their two-letter codes (ISO 3166-1)."""
    return {country.alpha_2: country.alpha_3 for country in country_names()}


@cache
def _places() -> Mapping[str, _Place]:
    """Return every place by its code."""
    places = dict(_country_places())
    for part in (_state_places, _province_places, _chinese_places, _nordic_places, _google_places):
        places |= dict(part())
    for provider, regions in (("aws", AWS), ("azure", AZURE)):
        for region, code in regions.items():
            inside = places.get(code) or places.get(_COUNTRIES.get(code[:2], code))
            if inside is None:
                continue
            name = f"{provider}:{region}"
            note = (
                f"The figure of {name} is that of {inside.name} ({inside.intensity.location}): the cloud publishes none for it."
            )
            places[name] = _Place(name, replace(inside.intensity, location=name, note=note))
    return {
        code: place._replace(intensity=replace(place.intensity, relative_uncertainty=_UNCERTAINTY[place.intensity.basis]))
        for code, place in places.items()
    }


@cache
def _codes_by_name() -> Mapping[str, list[str]]:
    """Return the codes of the places with a name, by the normalised name."""
    index = {name: [code] for name, code in _ALSO_CALLED.items() if code in _places()}
    for code, place in _places().items():
        _, _, region = code.partition(":")
        for name in dict.fromkeys((_normalize(code), _normalize(region or place.name))):
            index.setdefault(name, []).append(code)
    return index


def country_of(code: str) -> str | None:
    """Return the ISO-3 code of a place's country, for a place's code or a country's two letters; None if unknown."""
    provider, _, region = code.partition(":")
    code = {"aws": AWS, "azure": AZURE, "gcp": _google_countries()}.get(provider, {}).get(region, code)
    if code in countries_by_code():
        return code
    if code in _places():
        return _COUNTRIES.get(code[:2])
    country = alpha_3_codes().get(code)
    return country if country in countries_by_code() else None


def _describe_source(table: Table[Any]) -> str:
    return f"{table.source}; {table.origin}"


def _country_places() -> Iterator[tuple[str, _Place]]:
    source = _describe_source(countries())
    for country in countries().rows:
        yield (
            country.code,
            _Place(
                country.name,
                CarbonIntensity(
                    country.g_per_kwh,
                    country.code,
                    source,
                    country.year,
                    basis="lifecycle",
                    renewable_share=_share(country.renewables_twh, country.total_twh),
                    low_carbon_share=_share(country.low_carbon_twh, country.total_twh),
                ),
            ),
        )


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else min(1.0, max(0.0, part / whole))


def _state_places() -> Iterator[tuple[str, _Place]]:
    source = _describe_source(us_states())
    for state in us_states().rows:
        code, grams_per_kwh = f"US-{state.code}", state.lb_per_mwh * GRAMS_PER_POUND / 1000
        yield code, _Place(state.name.title(), CarbonIntensity(grams_per_kwh, code, source, state.year, basis="direct"))


def _province_places() -> Iterator[tuple[str, _Place]]:
    source, intensities = _describe_source(canadian_provinces()), source_intensities()
    for province in canadian_provinces().rows:
        code = _CANADA.get(province.name)
        if code is None:
            continue
        mix: Mapping[str, float] = asdict(province.mix)
        total = mix["total"]
        renewable = sum(mix[each] for each in _RENEWABLE)
        grams_per_kwh = sum(mix[each] / total * intensities[kind].g_per_kwh for each, kind in _CANADIAN_SOURCES.items())
        yield (
            code,
            _Place(
                province.name.title(),
                CarbonIntensity(
                    grams_per_kwh,
                    code,
                    source,
                    province.year,
                    basis="mixed",
                    renewable_share=_share(renewable, total),
                    low_carbon_share=_share(renewable + mix["nuclear"], total),
                ),
            ),
        )


def _chinese_places() -> Iterator[tuple[str, _Place]]:
    return _zone_places(chinese_provinces(), "direct")


def _nordic_places() -> Iterator[tuple[str, _Place]]:
    # FI is the whole country, for which the table of countries has a newer figure.
    return ((code, place) for code, place in _zone_places(nordic_zones(), "mixed") if code != "FI")


def _zone_places(table: Table[Zone], basis: Basis) -> Iterator[tuple[str, _Place]]:
    source = _describe_source(table)
    for zone in table.rows:
        yield zone.code, _Place(zone.name, CarbonIntensity(zone.g_per_kwh, zone.code, source, zone.year, basis=basis))


def _google_places() -> Iterator[tuple[str, _Place]]:
    table = google_regions()
    for row in table.rows:
        code = f"gcp:{_google_region(row)}"
        intensity = CarbonIntensity(row.g_per_kwh, code, f"{row.source}; {table.origin}", None)
        yield code, _Place(f"Google Cloud in {row.country_name}", intensity)


def _google_countries() -> Mapping[str, str]:
    return {_google_region(row): row.country for row in google_regions().rows}


def _google_region(row: GoogleRegion) -> str:
    return _MISSPELT.get(row.region, row.region)


def world() -> CarbonIntensity:
    """Return the world average, used if no place is given."""
    average = source_intensities()["world_average"]
    source = f"world average, {average.source}; {sources().origin}"
    return CarbonIntensity(average.g_per_kwh, None, source, None, assumed=True, basis="direct")
