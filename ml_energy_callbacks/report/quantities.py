"""Numbers as text: few significant digits, and ``-`` for unknown values."""

from ml_energy_callbacks.readings import Provenance

UNKNOWN = "-"
_GROUPED = 999.5  # with three digits, larger values would be written as 1e+03
_SMALL = 0.01


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


def at_least(text: str, *, lower_bound: bool) -> str:
    """Return a quantity, marked with ``≥`` if it is known and a lower bound."""
    return f"≥{text}" if lower_bound and text != UNKNOWN else text


def uncertainty(provenance: Provenance | None, relative: float | None) -> str:
    """Return the provenance and the uncertainty of a value, such as ``measured ±10 %``."""
    if provenance is None:
        return "unknown"
    return provenance if relative is None else f"{provenance} ±{relative:.0%}".replace("%", " %")
