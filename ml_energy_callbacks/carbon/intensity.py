"""Carbon intensity, in grams of CO2e per kilowatt-hour, and its source."""

from dataclasses import dataclass
from typing import get_args

from ml_energy_callbacks.carbon.numbers import plain_number
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import Basis
from ml_energy_callbacks.safe_text import describe

MOST_G_PER_KWH = 10_000.0
"""No electricity has more: lignite emits 101 g CO2 per MJ of heat (IPCC 2006), so even a power plant of 20 % efficiency emits
1,800 g per kWh."""
INTENSITIES = f"grams of CO2e per kWh, from 0 to {MOST_G_PER_KWH:,.0f}"


def is_intensity(g_per_kwh: float) -> bool:
    """Return whether a number can be the intensity of electricity."""
    return 0 <= g_per_kwh <= MOST_G_PER_KWH


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
        ConfigurationError: The intensity is negative, impossibly large or not a number, or another value has the wrong type.
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
        if not is_intensity(value):
            msg = f"carbon_intensity is {describe(self.g_per_kwh)}; give {INTENSITIES}."
            raise ConfigurationError(msg)
        object.__setattr__(self, "g_per_kwh", value)
        try:
            object.__setattr__(self, "data_year", None if self.data_year is None else int(self.data_year))
        except (TypeError, ValueError, OverflowError):
            msg = f"carbon_intensity has data_year={describe(self.data_year)}; give a year, or None."
            raise ConfigurationError(msg) from None
        texts: list[object] = [self.source, self.location or "", self.note or ""]
        if not all(isinstance(text, str) for text in texts) or self.basis not in get_args(Basis):
            msg = (
                f"carbon_intensity has source={describe(self.source)}, location={describe(self.location)} and "
                f"basis={describe(self.basis)}; give "
                f"texts, and one of {', '.join(get_args(Basis))}."
            )
            raise ConfigurationError(msg)
