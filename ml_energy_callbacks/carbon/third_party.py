"""An intensity provider of anybody's making, asked so that it can neither stop nor hold up a run."""

from concurrent.futures import wait
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.live import LiveIntensity, ServiceError
from ml_energy_callbacks.carbon.provider import IntensityProvider, Quote

_PATIENCE_S = 0.02
"""One that reckons has an answer by then; one that asks the network is not waited for, but the first time."""

_SHORTEST = timedelta(seconds=1)
"""An intensity holds for so long at least."""


class ThirdParty(LiveIntensity):
    """Asks a provider in the background; what it does not tell, or tells wrongly, is the place's usual intensity."""

    def __init__(self, provider: IntensityProvider, fallback: CarbonIntensity) -> None:
        """Ask for the first time."""
        self._provider = provider
        self.source = type(provider).__name__
        self._prompt = True
        super().__init__(fallback)

    def ask(self, when: datetime) -> Quote:
        """Ask the provider, and check what it says."""
        quote: Any = self._provider.quote(when)
        if not (isinstance(quote, Quote) and isinstance(quote.intensity, CarbonIntensity)):
            msg = f"{self.source} told no intensity."
            raise ServiceError(msg)
        if quote.until is not None and quote.until <= when:
            msg = f"{self.source} told an intensity that had ended."
            raise ServiceError(msg)
        until = quote.until and max(quote.until, when + _SHORTEST).astimezone(UTC)  # whose differences are no wall clock's
        return Quote(quote.intensity, until, None if quote.fallback is None else str(quote.fallback))

    def quote(self, when: datetime) -> Quote:
        """Return the intensity at an instant, which one that only reckons tells at once."""
        quote = super().quote(when)
        if self._answer is not None and self._prompt:
            self._prompt = bool(wait([self._answer], _PATIENCE_S).done)
            quote = super().quote(when)
        return quote
