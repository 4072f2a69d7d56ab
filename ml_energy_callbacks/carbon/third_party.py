"""An intensity provider of anybody's making, asked so that it can neither stop nor hold up a run."""

from concurrent.futures import wait
from datetime import datetime
from math import isfinite

from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.live import LiveIntensity, ServiceError
from ml_energy_callbacks.carbon.provider import IntensityProvider, Quote

_PATIENCE_S = 0.02
"""One that reckons has an answer by then; one that asks the network is not waited for."""


class ThirdParty(LiveIntensity):
    """Asks a provider in the background; what it does not tell, or tells wrongly, is the place's usual intensity."""

    def __init__(self, provider: IntensityProvider, fallback: CarbonIntensity) -> None:
        """Ask for the first time."""
        self._provider = provider
        self.source = type(provider).__name__
        super().__init__(fallback)

    def ask(self, when: datetime) -> Quote:
        """Ask the provider, and check what it says."""
        quote = self._provider.quote(when)
        if not (isfinite(quote.per_kwh) and quote.per_kwh >= 0):
            msg = f"{self.source} told no intensity."
            raise ServiceError(msg)
        if quote.until is not None and quote.until <= when:
            msg = f"{self.source} told an intensity that had ended."
            raise ServiceError(msg)
        return quote

    def quote(self, when: datetime) -> Quote:
        """Return the intensity at an instant, which one that only reckons tells at once."""
        quote = super().quote(when)
        if quote.provisional and self._answer is not None:
            wait([self._answer], _PATIENCE_S)
            quote = super().quote(when)
        return quote
