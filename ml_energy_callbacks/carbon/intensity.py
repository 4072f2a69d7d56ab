"""How many grams of CO2e a kilowatt-hour stands for, and where that figure comes from."""

from dataclasses import dataclass

from ml_energy_callbacks.metrics import Basis


@dataclass(frozen=True, slots=True)
class CarbonIntensity:
    """An intensity and where it comes from.

    Attributes:
        g_per_kwh: Grams CO2e for each kWh.
        location: Code of the place, or what the user called it; None where nobody named one.
        source: Who publishes the figure.
        data_year: Year that it stands for, or None where the source does not say.
        assumed: True where nobody named a place or an intensity.
        basis: What is counted in it.
        renewable_share: Share of the place's electricity from renewable sources, or None where it is not known.
        low_carbon_share: The same with nuclear power.
        note: How another place's figure was taken for this one's, or None.
    """

    g_per_kwh: float
    location: str | None
    source: str
    data_year: int | None
    assumed: bool = False
    basis: Basis = "unknown"
    renewable_share: float | None = None
    low_carbon_share: float | None = None
    note: str | None = None
