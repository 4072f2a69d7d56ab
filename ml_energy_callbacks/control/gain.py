"""Whether the last kilowatt-hours bought enough; pure."""

from math import isfinite
from numbers import Integral
from typing import Literal

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import is_positive
from ml_energy_callbacks.record.schema import StoppingRecord

Mode = Literal["min", "max"]


class GainRule:
    """Counts the checks in a row at which a metric had gained too little for the energy since its best.

    Attributes:
        state: What is known so far, as it is kept in the record.
    """

    def __init__(self, owner: str, *, monitor: str, min_gain_per_kwh: float, patience: int, mode: Mode) -> None:
        """Begin without a value.

        Args:
            owner: What errors call it.
            monitor: Name of the metric.
            min_gain_per_kwh: What a kWh has to buy, in the metric's own unit.
            patience: So many checks in a row may be too poor before the training stops; 0 and 1 are the same.
            mode: Whether less or more of the metric is better.

        Raises:
            ConfigurationError: A value is impossible.
        """
        if not is_positive(min_gain_per_kwh):
            msg = f"{owner} has min_gain_per_kwh={min_gain_per_kwh!r}; give what a kWh has to gain, above 0."
            raise ConfigurationError(msg)
        if not _is_count(patience):
            msg = f"{owner} has patience={patience!r}; give a number of checks from 0 upwards."
            raise ConfigurationError(msg)
        if mode not in ("min", "max"):
            msg = f"{owner} has mode={mode!r}; it is 'min' or 'max'."
            raise ConfigurationError(msg)
        # As plain numbers, since they are written to the record.
        self.state = StoppingRecord(
            monitor=monitor, mode=mode, min_gain_per_kwh=float(min_gain_per_kwh), patience=int(patience)
        )

    def restore(self, state: StoppingRecord | None) -> None:
        """Go on from where an interrupted training was, if it went by the same metric."""
        own = self.state
        if state is not None and (state.monitor, state.mode) == (own.monitor, own.mode):
            own.best, own.best_kwh, own.waited = state.best, state.best_kwh, state.waited

    def stops(self, value: float, kwh: float) -> str | None:
        """Take the metric's value at so many kWh; return why the training is to stop, or None."""
        state = self.state
        if isfinite(value) and (state.best is None or state.best_kwh is None or self._pays(value, kwh)):
            state.best, state.best_kwh, state.waited = value, kwh, 0
            return None
        state.waited += 1
        if state.waited < state.patience:
            return None
        best = "" if state.best is None else f" since its best, {state.best:.6g}"
        often = "" if state.waited == 1 else f", {state.waited} times in a row"
        return f"{state.monitor} gained less than {state.min_gain_per_kwh:g} per kWh{best}{often}."

    def _pays(self, value: float, kwh: float) -> bool:
        state = self.state
        gain = (state.best or 0.0) - value if state.mode == "min" else value - (state.best or 0.0)
        return gain > 0 and gain >= state.min_gain_per_kwh * (kwh - (state.best_kwh or 0.0))


def _is_count(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 0
