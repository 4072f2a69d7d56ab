"""How many grams of CO2e a kilowatt-hour stands for, and where that figure comes from."""

from dataclasses import dataclass
from math import isfinite
from typing import get_args

from ml_energy_callbacks.carbon.numbers import plain
from ml_energy_callbacks.exceptions import ConfigurationError
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
        relative_uncertainty: How far it may be off for the time of a run, as a share of it; 0 where it is the run's own.

    Raises:
        ConfigurationError: The intensity is no number from 0 upwards, or another value has not its type.
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
    relative_uncertainty: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is none, and make plain numbers of numbers of other libraries."""
        value = plain(self.g_per_kwh)
        if not (isfinite(value) and value >= 0):
            msg = f"carbon_intensity is {self.g_per_kwh!r}; give grams of CO2e per kWh, from 0 upwards."
            raise ConfigurationError(msg)
        object.__setattr__(self, "g_per_kwh", value)
        try:
            object.__setattr__(self, "data_year", None if self.data_year is None else int(self.data_year))
        except (TypeError, ValueError):
            msg = f"carbon_intensity has data_year={self.data_year!r}; give a year, or None."
            raise ConfigurationError(msg) from None
        texts: list[object] = [self.source, self.location or "", self.note or ""]
        if not all(isinstance(text, str) for text in texts) or self.basis not in get_args(Basis):
            msg = (
                f"carbon_intensity has source={self.source!r}, location={self.location!r} and basis={self.basis!r}; give "
                f"texts, and one of {', '.join(get_args(Basis))}."
            )
            raise ConfigurationError(msg)
