"""What belongs to the machine and the data centre, beside the electricity's intensity: overhead, water, embodied emissions."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from ml_energy_callbacks.carbon.numbers import plain
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import JOULES_PER_KWH

_SECONDS_PER_YEAR = 365.25 * 86400


@dataclass(frozen=True, slots=True)
class Site:
    """A data centre and the machine in it.

    Attributes:
        pue: Power usage effectiveness: the data centre's energy over its IT energy; inside grams and cost, never inside joules.
        wue: Water usage effectiveness: litres of water for each kWh of IT energy; None where it is not known.
        embodied_kg: Emissions of making the machine, in kg CO2e; None where they are not known.
        lifetime_years: How long the machine is used.
        offset_grams: Emissions that somebody compensated, in g CO2e: they are shown, and never subtracted.

    Raises:
        ConfigurationError: A figure is impossible.
    """

    pue: float = 1.0
    wue: float | None = None
    embodied_kg: float | None = None
    lifetime_years: float | None = None
    offset_grams: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be, and make plain numbers of numbers of other libraries."""
        if (self.embodied_kg is None) != (self.lifetime_years is None):
            msg = "embodied_kg and lifetime_years go together: give kg CO2e of the machine and the years that it is used."
            raise ConfigurationError(msg)
        self._check("pue", lambda pue: pue >= 1, "it is the data centre's energy over its IT energy, 1.0 or more.")
        self._check("lifetime_years", lambda years: years > 0, "give the years that the machine is used, above 0.")
        for name, unit in (("wue", "litres per kWh"), ("embodied_kg", "kg CO2e"), ("offset_grams", "g CO2e")):
            self._check(name, lambda amount: amount >= 0, f"give {unit}, from 0 upwards, or leave it out.")

    def _check(self, name: str, possible: Callable[[float], bool], advice: str) -> None:
        given = getattr(self, name)
        if given is None and name != "pue":
            return
        value = plain(given)
        if not (isfinite(value) and possible(value)):
            msg = f"{name} is {given!r}; {advice}"
            raise ConfigurationError(msg)
        object.__setattr__(self, name, value)

    def embodied_grams(self, seconds: float) -> float | None:
        """Return the share of the machine's making that falls to so many seconds of its life, in g CO2e (ISO/IEC 21031)."""
        if self.embodied_kg is None or self.lifetime_years is None:
            return None
        return self.embodied_kg * 1000 * seconds / (self.lifetime_years * _SECONDS_PER_YEAR)

    def water_litres(self, joules: float | None) -> float | None:
        """Return the water that so much IT energy takes, in litres."""
        return None if self.wue is None or joules is None else joules / JOULES_PER_KWH * self.wue
