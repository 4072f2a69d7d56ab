"""Carbon intensity, in grams of CO2e per kilowatt-hour, and its source."""

from dataclasses import dataclass
from math import isfinite
from typing import get_args

from ml_energy_callbacks.carbon.numbers import plain_number
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import Basis


@dataclass(frozen=True, slots=True)
class CarbonIntensity:
    """A carbon intensity and its source.

    Attributes:
        g_per_kwh: Grams of CO2e per kWh.
        location: Code of the place, or the user's label; None if not given.
        source: Publisher of the figure.
        data_year: Year of the figure; None if the source does not state it.
        assumed: True if neither a place nor an intensity is given, so that the world average is used.
        basis: The emissions that it includes.
        renewable_share: Share of the place's electricity from renewable sources; None if unknown.
        low_carbon_share: Share from renewable sources and nuclear power; None if unknown.
        note: Why the figure of another place is used for this one, or None.
        relative_uncertainty: Its relative uncertainty for the time of a run; 0 if it is that of the run itself.

    Raises:
        ConfigurationError: The intensity is negative or not a number, or another value has the wrong type.
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
        """Reject invalid values, and convert numbers of other libraries to plain numbers."""
        value = plain_number(self.g_per_kwh)
        if not (isfinite(value) and value >= 0):
            msg = f"carbon_intensity is {self.g_per_kwh!r}; give grams of CO2e per kWh, 0 or more."
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
