"""The protocol of carbon intensity providers, and a constant provider."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, runtime_checkable

from ml_energy_callbacks.carbon.intensity import CarbonIntensity


class Quote(NamedTuple):
    """A carbon intensity, valid for some time.

    Attributes:
        intensity: Intensity of the electricity.
        until: End of its validity; None if unknown.
        fallback: Why it is used instead of an unknown intensity; None if it is not a fallback.
        provisional: Whether the intensity is not known yet; the next one then also applies to this time.
    """

    intensity: CarbonIntensity
    until: datetime | None = None
    fallback: str | None = None
    provisional: bool = False

    @property
    def per_kwh(self) -> float:
        """Grams of CO2e per kWh."""
        return self.intensity.g_per_kwh

    def alike(self, other: "Quote") -> bool:
        """Return whether another quote is equal, apart from the time of its validity."""
        return (self.intensity, self.fallback) == (other.intensity, other.fallback)

    def settled(self) -> "Quote":
        """Return the quote as final, so that no later one replaces it."""
        return self._replace(provisional=False)


@runtime_checkable
class IntensityProvider(Protocol):
    """A provider of the carbon intensity of the electricity at an instant."""

    def quote(self, when: datetime) -> Quote:
        """Return the intensity at an instant and the end of its validity, without blocking and without raising errors."""


@dataclass(frozen=True, slots=True)
class Constant:
    """An intensity that does not change.

    Attributes:
        intensity: Intensity of the electricity.
    """

    intensity: CarbonIntensity

    def quote(self, when: datetime) -> Quote:  # noqa: ARG002 - it does not change
        """Return the intensity."""
        return Quote(self.intensity)
