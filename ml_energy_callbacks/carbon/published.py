"""The files that Electricity Maps and NESO publish: which of their columns have the time and the carbon intensity; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ml_energy_callbacks.metrics import Basis

_ELECTRICITY_MAPS = re.compile(r"carbon intensity gco\S{1,6}eq/kwh \((direct|life cycle|lca)\)")
"""The 2 below the line may have suffered from a wrong encoding."""

_NESO = (
    "carbon_intensity",
    "actual",
    "actual carbon intensity (gco2/kwh)",
    "forecast",
    "forecast carbon intensity (gco2/kwh)",
)
"""Columns of its historic generation mix, and of its files of actual and forecast intensities: those first that are known."""


@dataclass(frozen=True, slots=True)
class SeriesForm:
    """The columns of a file.

    Attributes:
        time: Name of the column with the start of each value.
        values: Names of the columns with the intensity in g CO2e per kWh: the first that is known counts.
        source: Who publishes it; None of this package's own form, of which times must have an offset.
        basis: What it counts.
        zone: Name of the column with the place, or None.
        location: The place, where no column has it.
    """

    time: str
    values: Sequence[str]
    source: str | None
    basis: Basis
    zone: str | None
    location: str | None


_OWN = SeriesForm("time", ["g_per_kwh"], None, "unknown", None, None)


def series_form(columns: Sequence[str]) -> SeriesForm:
    """Return the form of a file with these columns: this package's own if it is none that others publish.

    Where Electricity Maps gives the intensity twice, that of the life cycle is used, as in the package's tables.
    """
    names = {" ".join(column.lower().split()): column for column in columns}
    time = next((names[name] for name in ("datetime (utc)", "datetime") if name in names), None)
    if time is None:
        return _OWN
    by_basis = {found[1]: column for name, column in names.items() if (found := _ELECTRICITY_MAPS.fullmatch(name))}
    lifecycle, direct = by_basis.get("life cycle") or by_basis.get("lca"), by_basis.get("direct")
    if lifecycle is not None:
        return SeriesForm(time, [lifecycle], "Electricity Maps", "lifecycle", names.get("zone id"), None)
    if direct is not None:
        return SeriesForm(time, [direct], "Electricity Maps", "direct", names.get("zone id"), None)
    values = [names[name] for name in _NESO if name in names]
    return SeriesForm(time, values, "NESO", "direct", None, "GBR") if values else _OWN
