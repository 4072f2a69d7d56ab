"""Parts that the callbacks which stop a training have in common: the energy that they read, and early stopping by it."""

from copy import copy
from typing import Any

from ml_energy_callbacks.control import GainRule, Mode
from ml_energy_callbacks.frameworks.callback import MeteredCallback
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.meter.unforeseen import pass_users_error


class BesideEnergy:
    """A callback that reads the energy from the EnergyCallback in the same list, which it finds as a training begins."""

    _energy: MeteredCallback

    @property
    def _meter(self) -> EnergyMeter:
        return self._energy.meter


class EarlyStopping:
    """Early stopping by gain per kWh: the metric's values against the energy of an EnergyCallback; its state is in the record.

    Attributes:
        monitor: Name of the metric.
        mode: Whether lower or higher values are better; None while the framework does not know it.
    """

    def __init__(self, monitor: str, *, min_gain_per_kwh: float, patience: int, mode: Mode) -> None:
        """Check the options.

        Args:
            monitor: Name of the metric.
            min_gain_per_kwh: Required gain per kWh, in the metric's own unit.
            patience: Number of consecutive checks without sufficient gain that stop the training.
            mode: Whether lower or higher values are better.

        Raises:
            ConfigurationError: A value is invalid.
        """
        self.monitor = str(monitor)
        self.mode: Mode | None = mode
        self._limits: dict[str, Any] = {"min_gain_per_kwh": min_gain_per_kwh, "patience": patience}
        self._rule: GainRule | None = None
        self._new_rule(mode)

    def begin_training(self) -> None:
        """Begin a new training, or one that resumes."""
        self._rule = None

    def reason_to_stop(self, energy: MeteredCallback, value: Any) -> str | None:  # noqa: ANN401 - a number of any kind
        """Check the metric's value; return the reason to stop the training, or None.

        Args:
            energy: The EnergyCallback, which has begun to measure the training.
            value: The value as a number or an array of one; None if there is none. Of that, and of another, the user is warned.
        """
        meter = energy.meter
        if value is None or self.mode is None:
            why = f"finds no metric {self.monitor!r}"
            if value is not None:
                why = f"does not know whether less of {self.monitor!r} is better (set mode)"
            meter.warn(f"EnergyEarlyStopping {why}, so it never stops the training.")
            return None
        try:
            number = float(value)
        except Exception as error:  # noqa: BLE001 - the user's object
            pass_users_error(error)
            meter.warn(
                f"EnergyEarlyStopping ignores {self.monitor!r}, as its value is no number but of type {type(value).__name__}."
            )
            return None
        kwh = meter.sums().kwh if meter.running else None
        if kwh is None:
            return None
        if self._rule is None:
            self._rule = self._new_rule(self.mode)
            if energy.resumed is not None:
                self._rule.restore_state(energy.resumed.early_stopping)
        reason = self._rule.check_value(number, kwh)
        meter.early_stopping = copy(self._rule.state)
        return reason

    def _new_rule(self, mode: Mode) -> GainRule:
        return GainRule("EnergyEarlyStopping", monitor=self.monitor, mode=mode, **self._limits)
