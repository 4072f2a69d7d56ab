"""Numbers as text: few significant digits, an SI prefix, and ``-`` for unknown values."""

from collections.abc import Mapping
from math import floor, log10
from typing import Final

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


_PREFIXES: Final[Mapping[str, float]] = {"u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_LEAST_WHOLE = 0.1
"""A value is shown without a prefix from here on: 0.63 Wh, not 630 mWh."""
_LARGEST_PREFIX = {"g": "k"}
"""Nobody writes megagrams."""


def prefix_of(value: float, unit: str) -> str:
    """Return the SI prefix with which a value is easy to read."""
    size = abs(float(f"{value:.3g}"))
    fitting = [prefix for prefix, factor in _PREFIXES.items() if size >= factor * (_LEAST_WHOLE if factor == 1 else 1)]
    prefix = fitting[-1] if fitting else "u"
    largest = _LARGEST_PREFIX.get(unit.partition(" ")[0], "T")
    return "" if not size else min(prefix, largest, key=_PREFIXES.__getitem__)


def factor_of(prefix: str) -> float:
    """Return the factor of an SI prefix."""
    return _PREFIXES[prefix]


def significant(value: float, digits: int = 3) -> str:
    """Return a number with this many significant digits, zeros included: ``0.30``; of a larger one, all before the point."""
    decimals = digits - 1 - floor(log10(abs(float(f"{value:.{digits - 1}e}")))) if value else 0
    return f"{value:,.{max(0, decimals)}f}"


def scaled(value: float | None, unit: str, digits: int = 3) -> str:
    """Return a value with an SI prefix, such as ``2.27 kJ`` or ``77 mJ/sample``; ``-`` if it is None."""
    if value is None:
        return UNKNOWN
    prefix = prefix_of(value, unit)
    return f"{significant(value / _PREFIXES[prefix], digits)} {prefix}{unit}"


def money(value: float | None, currency: str) -> str:
    """Return an amount with two places, or two significant digits below a cent; ``-`` if it is None."""
    if value is None:
        return UNKNOWN
    shown = significant(value, 2) if 0 < abs(value) < _SMALL else f"{value:,.2f}"
    return f"{shown} {currency}".rstrip()


def percent(share: float) -> str:
    """Return a share in percent; one that is not zero is not shown as zero."""
    return "<1 %" if 0 < share < 0.005 else f"{share * 100:.0f} %"  # noqa: PLR2004 - where rounding gives zero


def rounded_down(value: float, unit: float | None = None) -> float:
    """Return a positive value rounded down, as a lower bound has to be: to multiples of a unit or to three digits."""
    if unit is None:
        unit = 10.0 ** (floor(log10(value)) - 2)
    return floor(value / unit * (1 + _ROUNDING)) * unit


def at_least(text: str, *, lower_bound: bool) -> str:
    """Return a quantity, marked with ``≥`` if it is known and a lower bound."""
    return f"≥{text}" if lower_bound and text != UNKNOWN else text


def uncertainty(provenance: Provenance | None, relative: float | None) -> str:
    """Return the provenance and the uncertainty of a value, such as ``measured ±10 %``."""
    if provenance is None:
        return "unknown"
    return provenance if relative is None else f"{provenance} ±{relative:.0%}".replace("%", " %")
