"""Numbers as text: few significant digits, and ``-`` for unknown values."""

from math import floor, log10

from ml_energy_callbacks.readings import Provenance

UNKNOWN = "-"
_GROUPED = 999.5  # with three digits, larger values would be written as 1e+03
_SMALL = 0.01
_ROUNDING = 1e-9
"""Relative error of a computed value, by which it may be below a round one that is meant."""


def quantity(value: float | None, unit: str = "") -> str:
    """Return a value with two or three significant digits and its unit; ``-`` if it is None."""
    if value is None:
        return UNKNOWN
    if abs(float(f"{value:.3g}")) >= _GROUPED:
        digits = f"{value:,.0f}"
    elif 0 < abs(value) < _SMALL:
        digits = f"{value:.1e}".replace("e-0", "e-")
    else:
        digits = f"{value:.3g}"
    return f"{digits} {unit}".rstrip()


def percent(share: float) -> str:
    """Return a share in percent with two significant digits, such as ``4.2 %``."""
    return quantity(float(f"{100 * share:.2g}"), "%")


def rounded_down(value: float, unit: float | None = None) -> float:
    """Return a positive value rounded down, as a lower bound has to be: to multiples of a unit or the digits of a quantity."""
    if unit is None:
        unit = min(1.0, 10.0 ** (floor(log10(value)) - (1 if value < _SMALL else 2)))
    return floor(value / unit * (1 + _ROUNDING)) * unit


def at_least(text: str, *, lower_bound: bool) -> str:
    """Return a quantity, marked with ``≥`` if it is known and a lower bound."""
    return f"≥{text}" if lower_bound and text != UNKNOWN else text


def uncertainty(provenance: Provenance | None, relative: float | None) -> str:
    """Return the provenance and the uncertainty of a value, such as ``measured ±10 %``."""
    if provenance is None:
        return "unknown"
    return provenance if relative is None else f"{provenance} ±{relative:.0%}".replace("%", " %")
