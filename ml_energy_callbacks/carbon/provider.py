"""The protocol of what tells the intensity of the electricity, and the simplest of its kind."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, runtime_checkable

from ml_energy_callbacks.carbon.intensity import CarbonIntensity


class Quote(NamedTuple):
    """An intensity for a while.

    Attributes:
        intensity: Of the electricity.
        until: It holds until then; None where no end is in sight.
        fallback: Why it stands in for one that is not known; None where it does not.
        provisional: Whether nothing is known yet: what comes then counts for this time, too.
    """

    intensity: CarbonIntensity
    until: datetime | None = None
    fallback: str | None = None
    provisional: bool = False

    @property
    def per_kwh(self) -> float:
        """Grams of CO2e for each kWh."""
        return self.intensity.g_per_kwh

    def alike(self, other: "Quote") -> bool:
        """Return whether another one is the same but for the time that it holds."""
        return (self.intensity, self.fallback) == (other.intensity, other.fallback)

    def settled(self) -> "Quote":
        """Return it as one that nothing better comes for."""
        return self._replace(provisional=False)


@runtime_checkable
class IntensityProvider(Protocol):
    """Something that tells how carbon-intensive the electricity is at an instant."""

    def quote(self, when: datetime) -> Quote:
        """Return the intensity at an instant, and how long it holds; at once, and whatever happens."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The same intensity all the time.

    Attributes:
        intensity: Of the electricity.
    """

    intensity: CarbonIntensity

    def quote(self, when: datetime) -> Quote:  # noqa: ARG002 - it is the same at any time
        """Return it."""
        return Quote(self.intensity)
