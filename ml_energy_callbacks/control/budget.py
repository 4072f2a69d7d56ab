"""A budget of energy, emissions or cost, and how much of it is spent."""

from typing import Literal

from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.control.limits import check_limit
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.report import quantity
from ml_energy_callbacks.safe_text import describe

Action = Literal["stop", "warn"]

_NEARLY = 0.8
_PATIENCE_NS = 30 * NS_PER_S
"""By then the first reading, or the first response of a service, should be available."""
_PAUSE_NS = round(0.05 * NS_PER_S)
"""Energy is read about every 50 ms; more frequent checks would see no change."""


class Budget:
    """Limits on the energy, emissions or cost of a run; a resumed run includes what it used before.

    Attributes:
        reason: The limit that ends the training, once one is reached; else None.
    """

    def __init__(
        self,
        owner: str,
        *,
        kwh: float | None = None,
        co2e_grams: float | None = None,
        cost: float | None = None,
        action: Action = "stop",
    ) -> None:
        """Set the limits.

        Args:
            owner: Name for error messages.
            kwh: Energy in kWh.
            co2e_grams: Emissions in g CO2e.
            cost: Cost in the currency of the callback's ``electricity_price``.
            action: Whether to stop the training at a limit, or only to warn.

        Raises:
            ConfigurationError: No limit is set, or one is not above zero.
        """
        limits = {"kwh": kwh, "co2e_grams": co2e_grams, "cost": cost}
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}
        if not self._limits:
            msg = f"{owner} has no limit: give kwh, co2e_grams or cost, such as {owner}(kwh=2.5)."
            raise ConfigurationError(msg)
        for name, limit in self._limits.items():
            check_limit(owner, name, limit)
        if action not in ("stop", "warn"):
            msg = f"{owner} has action={describe(action)}; use 'stop' or 'warn'."
            raise ConfigurationError(msg)
        self._owner = owner
        self._stops = action == "stop"
        self.begin_training()

    def begin_training(self) -> None:
        """Start a new training."""
        self.reason: str | None = None
        self._next_check = 0
        self._started = monotonic_clock()
        self._seen: set[str] = set()

    def check_price(self, meter: EnergyMeter) -> None:
        """Check that a limit of cost has a price.

        Raises:
            ConfigurationError: The cost is limited, and no price is known.
        """
        if "cost" in self._limits and meter.currency is None:
            msg = f"{self._owner}(cost=...) requires a price: set the electricity_price of EnergyCallback."
            raise ConfigurationError(msg)

    def is_spent(self, meter: EnergyMeter) -> bool:
        """Return whether the training must stop; warn once if a budget is nearly or completely spent."""
        now = monotonic_clock()
        if now < self._next_check or not meter.running:
            return False
        self._next_check = now + _PAUSE_NS
        return self._check_limits(meter, patient=now - self._started <= _PATIENCE_NS)

    def end_training(self, meter: EnergyMeter) -> None:
        """End a training: warn of limits that could not be checked at all."""
        if self.reason is None:
            self._check_limits(meter, patient=False)

    def _check_limits(self, meter: EnergyMeter, *, patient: bool) -> bool:
        sums = meter.sums()
        units = {"kwh": "kWh", "co2e_grams": "g CO2e", "cost": meter.currency or ""}
        for name, limit in self._limits.items():
            value: float | None = getattr(sums, name)
            budget = f"budget of {quantity(limit, units[name])}"
            if value is None:
                if name not in self._seen and not patient:
                    meter.warn(f"The {budget} cannot be checked, because that quantity is unknown in this run.")
                continue
            self._seen.add(name)
            if value >= limit and self._stops:
                self.reason = f"The {budget} is spent."
                meter.warn(self.reason)
                return True
            if value >= limit:
                meter.warn(f"The {budget} is spent. Training continues because of action='warn'.")
            elif value >= _NEARLY * limit:
                meter.warn(f"{_NEARLY:.0%} of the {budget} is spent.".replace("%", " %"))
        return False
