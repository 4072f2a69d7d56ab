"""The data centre and the machine: overhead, water and embodied emissions."""

from collections.abc import Callable
from dataclasses import dataclass

from ml_energy_callbacks.carbon.numbers import plain_number
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.safe_text import describe

_SECONDS_PER_YEAR = 365.25 * 86400
_SHORTEST_YEARS = 1 / 8766
"""An hour."""
_MOST = 1e12
"""Beyond that, the data centre of the whole world is no example."""


@dataclass(frozen=True, slots=True)
class Site:
    """A data centre and the machine in it.

    Attributes:
        pue: Power usage effectiveness: the data centre's energy divided by its IT energy; included in grams and cost, never in
            joules.
        wue: Water usage effectiveness: litres of water per kWh of IT energy; None if unknown.
        embodied_kg: Emissions of manufacturing the machine in kg CO2e; None if unknown.
        lifetime_years: Years for which the machine is used.
        offset_grams: Emissions that were compensated, in g CO2e: they are reported, never subtracted.

    Raises:
        ConfigurationError: A value is impossible.
    """

    pue: float = 1.0
    wue: float | None = None
    embodied_kg: float | None = None
    lifetime_years: float | None = None
    offset_grams: float | None = None

    def __post_init__(self) -> None:
        """Reject impossible values, and convert numbers of other libraries to plain numbers."""
        if (self.embodied_kg is None) != (self.lifetime_years is None):
            msg = "embodied_kg requires lifetime_years and vice versa; give kg CO2e of the machine and its years of use."
            raise ConfigurationError(msg)
        self._check_value(
            "pue", lambda pue: 1 <= pue <= _MOST, "give the data centre's energy divided by its IT energy, 1.0 or more."
        )
        self._check_value(
            "lifetime_years",
            lambda years: _SHORTEST_YEARS <= years <= _MOST,
            "give the years for which the machine is used, above 0.",
        )
        for name, unit in (("wue", "litres per kWh"), ("embodied_kg", "kg CO2e"), ("offset_grams", "g CO2e")):
            self._check_value(name, lambda amount: 0 <= amount <= _MOST, f"give {unit}, 0 or more, or leave it out.")

    def _check_value(self, name: str, possible: Callable[[float], bool], advice: str) -> None:
        given = getattr(self, name)
        if given is None and name != "pue":
            return
        value = plain_number(given)
        if not possible(value):
            msg = f"{name} is {describe(given)}; {advice}"
            raise ConfigurationError(msg)
        object.__setattr__(self, name, value)

    def embodied_grams(self, seconds: float) -> float | None:
        """Return the embodied emissions of this many seconds of the machine's life in g CO2e (ISO/IEC 21031)."""
        if self.embodied_kg is None or self.lifetime_years is None:
            return None
        return self.embodied_kg * 1000 * seconds / (self.lifetime_years * _SECONDS_PER_YEAR)

    def water_litres(self, joules: float | None) -> float | None:
        """Return the water use of this IT energy in litres."""
        return None if self.wue is None or joules is None else joules / JOULES_PER_KWH * self.wue
