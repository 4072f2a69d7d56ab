"""Numbers as a person reads them: three significant digits, and ``-`` for what is not known."""

from ml_energy_callbacks.readings import Provenance

UNKNOWN = "-"


def quantity(value: float | None, unit: str = "") -> str:
    """Return a value with three significant digits and its unit; ``-`` where it is None."""
    if value is None:
        return UNKNOWN
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"  # noqa: PLR2004 - three digits
    return f"{digits} {unit}".rstrip()


def uncertainty(provenance: Provenance | None, relative: float | None) -> str:
    """Return how a value was come by and how sure it is, such as ``measured ±10 %``."""
    if provenance is None:
        return "unknown"
    return provenance if relative is None else f"{provenance} ±{relative:.0%}".replace("%", " %")
