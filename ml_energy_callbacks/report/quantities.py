"""Numbers as a person reads them: few significant digits, and ``-`` for what is not known."""

from ml_energy_callbacks.readings import Provenance

UNKNOWN = "-"
_GROUPED = 999.5  # with three digits, what is more would be 1e+03
_SMALL = 0.01


def quantity(value: float | None, unit: str = "") -> str:
    """Return a value with two or three significant digits and its unit; ``-`` where it is None."""
    if value is None:
        return UNKNOWN
    if abs(float(f"{value:.3g}")) >= _GROUPED:
        digits = f"{value:,.0f}"
    elif 0 < abs(value) < _SMALL:
        digits = f"{value:.1e}".replace("e-0", "e-")
    else:
        digits = f"{value:.3g}"
    return f"{digits} {unit}".rstrip()


def uncertainty(provenance: Provenance | None, relative: float | None) -> str:
    """Return how a value was come by and how sure it is, such as ``measured ±10 %``."""
    if provenance is None:
        return "unknown"
    return provenance if relative is None else f"{provenance} ±{relative:.0%}".replace("%", " %")
