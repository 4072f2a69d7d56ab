"""How much of a budget of energy, emissions or money is spent."""

from typing import Literal

from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.metrics import is_positive
from ml_energy_callbacks.report import quantity

Action = Literal["stop", "warn"]

_NEARLY = 0.8
_PATIENCE_NS = 30 * NS_PER_S
"""The first reading, or a service's first answer, has come by then."""
_PAUSE_NS = round(0.05 * NS_PER_S)
"""Energy is read about every 50 ms; looking more often would tell nothing new."""


class Budget:
    """Limits to what a run may use, as its record tells: a run that is resumed has spent what it had before.

    Attributes:
        reason: Which limit ends the training, once one is reached.
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
            owner: What errors call it.
            kwh: Energy in kWh.
            co2e_grams: Emissions in g CO2e.
            cost: Money in the currency of the callback's ``electricity_price``.
            action: Whether to stop the training, or merely to say that a limit was reached.

        Raises:
            ConfigurationError: There is no limit, or one that is not above zero.
        """
        limits = {"kwh": kwh, "co2e_grams": co2e_grams, "cost": cost}
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}
        if not self._limits:
            msg = f"{owner} has no limit: give kwh, co2e_grams or cost, such as {owner}(kwh=2.5)."
            raise ConfigurationError(msg)
        for name, limit in self._limits.items():
            if not is_positive(limit):
                msg = f"{owner} has {name}={limit!r}; give a limit above 0."
                raise ConfigurationError(msg)
        if action not in ("stop", "warn"):
            msg = f"{owner} has action={action!r}; it is 'stop' or 'warn'."
            raise ConfigurationError(msg)
        self._owner = owner
        self._stops = action == "stop"
        self.begin()

    def begin(self) -> None:
        """Begin a training."""
        self.reason: str | None = None
        self._next_look = 0
        self._begun = monotonic_clock()
        self._seen: set[str] = set()

    def check(self, meter: EnergyMeter) -> None:
        """Refuse a limit that cannot be watched.

        Raises:
            ConfigurationError: It is one of money, and no price is known.
        """
        if "cost" in self._limits and meter.cost_currency is None:
            msg = f"{self._owner}(cost=...) needs a price: give EnergyCallback an electricity_price."
            raise ConfigurationError(msg)

    def spent(self, meter: EnergyMeter) -> bool:
        """Return whether the training is to be stopped; say once what is nearly or wholly spent."""
        now = monotonic_clock()
        if now < self._next_look or not meter.running:
            return False
        self._next_look = now + _PAUSE_NS
        return self._look(meter, patient=now - self._begun <= _PATIENCE_NS)

    def end(self, meter: EnergyMeter) -> None:
        """End a training: tell of limits that could not be watched at all."""
        if self.reason is None:
            self._look(meter, patient=False)

    def _look(self, meter: EnergyMeter, *, patient: bool) -> bool:
        sums = meter.sums()
        units = {"kwh": "kWh", "co2e_grams": "g CO2e", "cost": meter.cost_currency or ""}
        for name, limit in self._limits.items():
            value: float | None = getattr(sums, name)
            budget = f"budget of {quantity(limit, units[name])}"
            if value is None:
                if name not in self._seen and not patient:
                    meter.warn(f"The {budget} cannot be watched, as what it limits is not known in this run.")
                continue
            self._seen.add(name)
            if value >= limit and self._stops:
                self.reason = f"The {budget} is spent."
                meter.warn(self.reason)
                return True
            if value >= limit:
                meter.warn(f"The {budget} is spent. The training goes on, as action='warn' says.")
            elif value >= _NEARLY * limit:
                meter.warn(f"{_NEARLY:.0%} of the {budget} is spent.".replace("%", " %"))
        return False
