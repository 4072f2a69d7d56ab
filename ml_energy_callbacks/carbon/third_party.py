"""Third-party intensity providers, queried so that they can neither stop nor delay a run."""

from concurrent.futures import wait
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.live import LiveIntensity, ServiceError
from ml_energy_callbacks.carbon.provider import IntensityProvider, Quote

_PATIENCE_S = 0.02
"""A provider that only computes answers within this time; one that uses the network is waited for only the first time."""

_SHORTEST = timedelta(seconds=1)
"""Least time of an intensity's validity."""


class ThirdParty(LiveIntensity):
    """Queries a provider in the background; the place's intensity replaces missing and invalid answers."""

    def __init__(self, provider: IntensityProvider, fallback: CarbonIntensity) -> None:
        """Start the first query."""
        self._provider = provider
        self.source = type(provider).__name__
        self._answers_promptly = True
        super().__init__(fallback)

    def query_service(self, when: datetime) -> Quote:
        """Query the provider, and check its answer."""
        quote: Any = self._provider.quote(when)
        if not (isinstance(quote, Quote) and isinstance(quote.intensity, CarbonIntensity)):
            msg = f"{self.source} returned no intensity."
            raise ServiceError(msg)
        if quote.until is not None and quote.until <= when:
            msg = f"{self.source} returned an intensity that had expired."
            raise ServiceError(msg)
        until = quote.until and max(quote.until, when + _SHORTEST).astimezone(UTC)  # differences in UTC are elapsed time
        return Quote(quote.intensity, until, None if quote.fallback is None else str(quote.fallback))

    def quote(self, when: datetime) -> Quote:
        """Return the intensity at an instant; a provider that only computes is waited for."""
        quote = super().quote(when)
        if self._pending is not None and self._answers_promptly:
            self._answers_promptly = bool(wait([self._pending], _PATIENCE_S).done)
            quote = super().quote(when)
        return quote
