"""Early stopping by gain per kWh; pure."""

from math import isfinite
from numbers import Integral
from typing import Literal

from ml_energy_callbacks.control.limits import check_limit
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.record.schema import StoppingRecord
from ml_energy_callbacks.safe_text import describe

Mode = Literal["min", "max"]


class GainRule:
    """Counts consecutive checks in which a metric gained too little for the energy since its best value.

    Attributes:
        state: The state as in the record.
    """

    def __init__(self, owner: str, *, monitor: str, min_gain_per_kwh: float, patience: int, mode: Mode) -> None:
        """Start without a value.

        Args:
            owner: Name for error messages.
            monitor: Name of the metric.
            min_gain_per_kwh: Required gain per kWh, in the metric's own unit.
            patience: Number of consecutive checks without sufficient gain that stop the training; 0 is the same as 1.
            mode: Whether lower or higher values are better.

        Raises:
            ConfigurationError: A value is invalid.
        """
        check_limit(owner, "min_gain_per_kwh", min_gain_per_kwh, "a gain above 0")
        if not _is_count(patience):
            msg = f"{owner} has patience={describe(patience)}; give a number of checks, 0 or more."
            raise ConfigurationError(msg)
        if mode not in ("min", "max"):
            msg = f"{owner} has mode={describe(mode)}; use 'min' or 'max'."
            raise ConfigurationError(msg)
        # Converted to plain numbers for the record.
        self.state = StoppingRecord(
            monitor=monitor, mode=mode, min_gain_per_kwh=float(min_gain_per_kwh), patience=int(patience)
        )

    def restore_state(self, state: StoppingRecord | None) -> None:
        """Continue from the state of an interrupted training, if it used the same metric."""
        own = self.state
        if state is not None and (state.monitor, state.mode) == (own.monitor, own.mode):
            own.best, own.best_kwh, own.waited = state.best, state.best_kwh, state.waited

    def check_value(self, value: float, kwh: float) -> str | None:
        """Check the value of the metric after this energy in kWh; return the reason to stop the training, or None."""
        state = self.state
        if isfinite(value) and (state.best is None or state.best_kwh is None or self._is_worth(value, kwh)):
            state.best, state.best_kwh, state.waited = value, kwh, 0
            return None
        state.waited += 1
        if state.waited < state.patience:
            return None
        best = "" if state.best is None else f" since its best, {state.best:.6g}"
        often = "" if state.waited == 1 else f", {state.waited} times in a row"
        return f"{state.monitor} gained less than {state.min_gain_per_kwh:g} per kWh{best}{often}."

    def _is_worth(self, value: float, kwh: float) -> bool:
        state = self.state
        gain = (state.best or 0.0) - value if state.mode == "min" else value - (state.best or 0.0)
        spent = kwh - (state.best_kwh or 0.0)  # below 0 where too much was extrapolated at the best value: then it is unknown
        return spent >= 0 and gain > 0 and gain >= state.min_gain_per_kwh * spent


def _is_count(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 0
