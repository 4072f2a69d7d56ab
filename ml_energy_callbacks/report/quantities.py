"""Numbers as text: few significant digits, an SI prefix, and ``-`` for unknown values."""

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Final

from ml_energy_callbacks.readings import Provenance

UNKNOWN = "-"
_GROUPED = 999.5  # with three digits, larger values would be written as 1e+03
_SMALL = 0.01
_MOST_SECONDS = 9999.5
_SECONDS_PER_HOUR = 3600.0
_FAR = 1000.0
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


_PREFIXES: Final[Mapping[str, float]] = {
    "f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0,
    "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21, "Y": 1e24,
}  # fmt: skip
_LEAST_WHOLE = 0.1
"""A single value is shown without a prefix from here on: 0.63 Wh, not 630 mWh; but 123 ms."""
_LARGEST_PREFIX = {"g": "k", "FLOP": "Y", "FLOP/s": "Y", "FLOP/sample": "Y"}
"""Nobody writes megagrams; only FLOPs are more than thousands of T."""
_SMALLEST_PREFIX = {"J/FLOP": "f"}
"""Only the energy of a FLOP is less than thousandths of a u."""


def prefix_of(value: float, unit: str, least: float = 1.0) -> str:
    """Return the SI prefix with which a value is easy to read.

    Args:
        value: The value, in the unit.
        unit: The unit.
        least: The smallest value that is shown without a prefix.
    """
    size = abs(float(f"{value:.3g}"))
    name = unit.partition(" ")[0]
    smallest, largest = (_PREFIXES[ends.get(name, usual)] for ends, usual in ((_SMALLEST_PREFIX, "u"), (_LARGEST_PREFIX, "T")))
    used = {prefix: factor for prefix, factor in _PREFIXES.items() if smallest <= factor <= largest}
    fitting = [prefix for prefix, factor in used.items() if size >= factor * (least if factor == 1 else 1)]
    return "" if not size else fitting[-1] if fitting else next(iter(used))


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
    prefix = prefix_of(value, unit, 1.0 if unit == "s" else _LEAST_WHOLE)
    return f"{significant(value / _PREFIXES[prefix], digits)} {prefix}{unit}"


def column(values: Sequence[float | None], unit: str) -> tuple[str, list[str]]:
    """Return the unit with one SI prefix for a column of values, and their texts with aligned decimals.

    The largest value has three significant digits, or one more if a smaller one has less than two. What then still rounds to
    zero is shown as ``<0.01``, or ``>-0.01`` if it is negative, and an unknown value as ``-``.
    """
    known = [abs(value) for value in values if value]
    prefix = prefix_of(max(known), unit) if known else ""
    return prefix + unit, _aligned([None if value is None else value / _PREFIXES[prefix] for value in values])


def scaled_range(low: float, high: float, unit: str) -> str:
    """Return both ends of a range with one SI prefix, such as ``4.70 to 5.09 kJ``; with two if they are far from each other."""
    if low > 0 and high >= _FAR * low:
        return f"{scaled(low, unit)} to {scaled(high, unit)}"
    unit, (first, last) = column([low, high], unit)
    return f"{first} to {last} {unit}"


def column_with_ranges(
    values: Sequence[float | None], ranges: Sequence[tuple[float, float] | None], unit: str
) -> tuple[str, list[str], list[str]]:
    """Return what :func:`column` does for values and for their ranges, with one SI prefix and one number of decimals."""
    ends = [end for each in ranges for end in each or (None, None)]
    unit, texts = column([*values, *ends], unit)
    lows, highs = (texts[len(values) + i :: 2] for i in range(2))
    between = [UNKNOWN if low == UNKNOWN else f"{low} to {high}" for low, high in zip(lows, highs, strict=True)]
    return unit, texts[: len(values)], between


def time_column(values: Sequence[float | None]) -> tuple[str, list[str]]:
    """Return the unit of a column of times in s, hours for long ones, and their texts as :func:`column` does."""
    longest = max((value for value in values if value is not None), default=0.0)
    if longest < _MOST_SECONDS:
        return column(values, "s") if longest < 1 else ("s", _aligned(values))
    return "h", _aligned([None if value is None else value / _SECONDS_PER_HOUR for value in values])


def _aligned(values: Sequence[float | None]) -> list[str]:
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return [UNKNOWN if value is None else "0" for value in values]
    enough, fine = (digits - floor(log10(float(f"{size:.2e}"))) for digits, size in ((2, max(sizes)), (1, min(sizes))))
    decimals = max(0, enough, min(fine, enough + 1))
    return [_with_decimals(value, decimals) for value in values]


def _with_decimals(value: float | None, decimals: int) -> str:
    if value is None:
        return UNKNOWN
    text = f"{value:,.{decimals}f}"
    if not value or float(text.replace(",", "")):
        return text
    return f"{'<' if value > 0 else '>-'}{10.0**-decimals:.{decimals}f}"


def money_column(values: Sequence[float | None]) -> list[str]:
    """Return the texts of a column of amounts: two places or, if all are below a cent, enough for two significant digits."""
    most = max((abs(value) for value in values if value), default=1.0)
    decimals = 2 if most >= _SMALL else 1 - floor(log10(most))
    return [_with_decimals(value, decimals) for value in values]


def money(value: float | None, currency: str) -> str:
    """Return an amount with two places, or two significant digits below a cent; ``-`` if it is None."""
    if value is None:
        return UNKNOWN
    shown = significant(value, 2) if 0 < abs(value) < _SMALL else f"{value:,.2f}"
    return f"{shown} {currency}".rstrip()


def percent(share: float) -> str:
    """Return a share in percent; one that is not zero is not shown as zero."""
    return "<1 %" if 0 < share < 0.005 else f"{share * 100:.0f} %"  # noqa: PLR2004 - where rounding gives zero


def shares(parts: Sequence[float | None], whole: float | None) -> list[str]:
    """Return parts of a whole in percent."""
    return [percent(part / whole) if whole and part is not None else UNKNOWN for part in parts]


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
