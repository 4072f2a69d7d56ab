"""Callbacks that stop a training by its energy, which they read from the EnergyCallback in the same list."""

import sys
from types import FrameType
from typing import Any, Literal

import keras

from ml_energy_callbacks.control import Action, Budget, Mode
from ml_energy_callbacks.frameworks.callback import find_energy_callback
from ml_energy_callbacks.frameworks.guard import guard_hooks
from ml_energy_callbacks.frameworks.stopping import BesideEnergy, EarlyStopping
from ml_energy_callbacks.keras import internals
from ml_energy_callbacks.keras.energy_callback import EnergyCallback
from ml_energy_callbacks.keras.loop import KerasLoop
from ml_energy_callbacks.keras.traits import unwrapped


class _InList(BesideEnergy, keras.callbacks.Callback):
    """A callback of Keras that finds the EnergyCallback by the list that called a hook."""

    _energy: EnergyCallback
    _loop: KerasLoop

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the loop and the EnergyCallback: the next fit finds them again."""
        return {name: value for name, value in self.__dict__.items() if name not in {"_energy", "_loop"}}

    @property
    def _keras_model(self) -> Any:
        return unwrapped(internals.given_model(self))

    def _find(self, hook: FrameType, owner: str) -> None:
        """Find the EnergyCallback of the list that called a hook.

        Raises:
            ConfigurationError: The list has none.
        """
        self._loop = KerasLoop(hook, self._keras_model)
        self._loop.release()  # the EnergyCallback watches it
        self._energy = find_energy_callback(self._loop.callbacks, EnergyCallback, owner)

    def _stop(self, reason: str | None) -> bool:
        """Stop the training if a process of the job has a reason to, and return whether it does."""
        reason = self._energy.agree(reason)
        if reason is not None:
            self._keras_model.stop_training = True
            self._meter.end_early(reason)
        return reason is not None


@guard_hooks
class EnergyBudget(_InList):
    """Stop the training at the end of the batch in which a budget is spent, as ``model.stop_training`` does.

    In a job of several processes, all of them stop at the end of an epoch. The hooks of the epoch's end are called as usual, so
    that a ``ModelCheckpoint`` saves it. The record's status is then ``stopped``, with the reason. A warning is logged at 80 %.

    Args:
        kwh: Energy in kWh, of the whole record: a fit that resumes includes the energy used before.
        co2e_grams: Emissions in g CO2e.
        cost: Cost in the currency of the EnergyCallback, which needs an ``electricity_price``.
        action: ``"stop"``, or ``"warn"`` to log a warning and continue.

    Raises:
        ConfigurationError: There is no limit, or one that is not above zero; or, when a fit begins, there is no EnergyCallback.
    """

    def __init__(
        self,
        *,
        kwh: float | None = None,
        co2e_grams: float | None = None,
        cost: float | None = None,
        action: Action = "stop",
    ) -> None:
        """Check the limits."""
        super().__init__()
        self._budget = Budget("EnergyBudget", kwh=kwh, co2e_grams=co2e_grams, cost=cost, action=action)

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the EnergyCallback."""
        del logs
        self._find(sys._getframe(), "EnergyBudget")  # noqa: SLF001 - there is no other way to find the caller
        self._budget.check_price(self._meter)
        self._budget.begin_training()

    def on_train_end(self, logs: Any = None) -> None:
        """Warn of limits that could not be checked."""
        self._budget.end_training(self._meter)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Check whether the budget is spent."""
        del batch, logs
        if not self._energy.in_job and self._budget.is_spent(self._meter):
            self._stop(self._budget.reason)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Check whether a job's budget is spent, at a point that all of its processes reach."""
        del epoch, logs
        if self._energy.in_job:
            self._budget.is_spent(self._meter)
            self._stop(self._budget.reason)


@guard_hooks
class EnergyEarlyStopping(_InList):
    """Stop the training when a metric gains too little per kilowatt-hour.

    The metric is checked after each epoch; in a job of several processes, all stop if one has a reason to. A value is the new
    best if it improved on the last best by at least ``min_gain_per_kwh`` for each kWh used since then. A fit that
    ``BackupAndRestore`` resumes continues from the saved state.

    Args:
        monitor: Name of a metric in the epoch's logs.
        min_gain_per_kwh: Least gain per kWh, in the metric's own unit, above 0.
        patience: Number of checks in a row without a new best after which the training stops; 0 is the same as 1.
        mode: ``"min"`` if less is better, ``"max"``, or ``"auto"`` to infer it from the metric, as Keras does.

    Raises:
        ConfigurationError: A value is impossible; or, when a fit begins, there is no EnergyCallback.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        min_gain_per_kwh: float,
        patience: int = 0,
        mode: Mode | Literal["auto"] = "auto",
    ) -> None:
        """Check the options."""
        super().__init__()
        self._infers_mode = mode == "auto"
        self._rule = EarlyStopping(
            monitor, min_gain_per_kwh=min_gain_per_kwh, patience=patience, mode="min" if mode == "auto" else mode
        )

    @property
    def monitor(self) -> str:
        """Name of the metric."""
        return self._rule.monitor

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the EnergyCallback."""
        del logs
        self._find(sys._getframe(), "EnergyEarlyStopping")  # noqa: SLF001 - as above
        self._rule.begin_training()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Check the metric after an epoch."""
        reason = self._reason(epoch, logs)
        if self._stop(reason) and reason is not None:
            self._meter.warn(reason)

    def _reason(self, epoch: int, logs: Any) -> str | None:
        """Return the reason to stop the training, or None."""
        value = (logs or {}).get(self.monitor)
        if value is None and self._waits_for_validation(epoch):
            return None
        if self._infers_mode:
            self._rule.mode = self._direction()
        reason = self._rule.reason_to_stop(self._energy, value)
        self._energy.keep()
        return reason

    def _waits_for_validation(self, epoch: int) -> bool:
        """Return whether an epoch has no validation, and a later one does."""
        passed, so_far, whole = (self._loop.validates_at(n) for n in (epoch, epoch + 1, self.params.get("epochs") or 0))
        return passed == so_far < whole

    def _direction(self) -> Mode | None:
        """Return whether lower or higher values of the metric are better; None if neither its name nor Keras shows it."""
        name = self.monitor.removeprefix("val_")
        if name == "loss" or name.endswith("_loss"):
            return "min"
        for metric in internals.single_metrics(self._keras_model):
            if metric.name == name:
                return internals.better_direction(metric)
        return None
