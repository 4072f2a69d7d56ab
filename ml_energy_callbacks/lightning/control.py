"""Callbacks that stop a training by its energy; they go by the EnergyCallback beside them."""

from copy import copy
from typing import TYPE_CHECKING, Any

from ml_energy_callbacks.control import Action, Budget, GainRule, Mode
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.frameworks.torch import joined
from ml_energy_callbacks.lightning.base import Callback
from ml_energy_callbacks.lightning.energy_callback import EnergyCallback
from ml_energy_callbacks.record.storage import as_place, below

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

_CHECKPOINT = "energy-budget.ckpt"


class EnergyBudget(Callback):
    """Stop the training at the end of the batch in which a budget is spent, as ``trainer.should_stop`` does, and save it.

    The record's status then is ``stopped``, and its reason says why. The last checkpoint is the trainer's own where that saves
    one at the end, else ``energy-budget.ckpt`` beside it; a trainer without checkpoints saves none. At 80 % the user is warned.
    In a job of several processes it looks every ``log_every_n_steps`` batches, as all of them have to stop at the same one.

    Args:
        kwh: Energy in kWh, of the whole record: a fit that resumes has spent what it had before.
        co2e_grams: Emissions in g CO2e.
        cost: Money in the currency of the callback's ``electricity_price``.
        action: ``"stop"``, or ``"warn"`` to say it and go on.

    Raises:
        ConfigurationError: There is no limit, or one that is not above zero; or, once a fit begins, there is no EnergyCallback.
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
        self._budget = Budget("EnergyBudget", kwh=kwh, co2e_grams=co2e_grams, cost=cost, action=action)

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Find the EnergyCallback."""
        if stage == "fit":
            self._energy = _energy(trainer, "EnergyBudget")
            self._budget.check_price(self._energy.meter)
            self._budget.begin_training()
            self._batches = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the EnergyCallback, and what Lightning hangs on a callback: the next fit finds them anew."""
        return {"_budget": self._budget}

    def on_train_batch_end(self, trainer: "Trainer", *_: Any) -> None:  # noqa: ANN401 - Lightning's hooks pass what they like
        """Look whether the budget is spent."""
        self._batches += 1
        if trainer.world_size == 1 or self._batches % (trainer.log_every_n_steps or 1) == 0:  # type: ignore[attr-defined]
            self._look(trainer)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Look once more, in a job whose epochs are short."""
        if trainer.world_size > 1:
            self._look(trainer)

    def _look(self, trainer: "Trainer") -> None:
        """Stop every process where one of them finds it spent; all of them come here at the same batch."""
        self._energy.meter.share()
        self._budget.is_spent(self._energy.meter)
        _stop(trainer, self._energy, self._budget.reason)

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Save a checkpoint where the budget ended the training and the trainer's own callbacks have not."""
        self._budget.end_training(self._energy.meter)
        keepers = trainer.checkpoint_callbacks
        spent = _agreed(trainer, self._energy, self._budget.reason if trainer.should_stop else None)
        if spent is None or not keepers or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # Private, but what Lightning itself knows it by; where it is not there, one checkpoint more does no harm.
        if not any(getattr(keeper, "_last_global_step_saved", 0) == trainer.global_step > 0 for keeper in keepers):
            folder = getattr(keepers[0], "dirpath", None) or trainer.default_root_dir
            trainer.save_checkpoint(below(as_place(folder), _CHECKPOINT))


class EnergyEarlyStopping(Callback):
    """Stop the training when the next kilowatt-hour buys too little of a metric.

    It checks after each validation, or after each epoch where there is none or where it is training that logs the metric. A
    value counts as the new best where it gained, since the best before it, ``min_gain_per_kwh`` for each kWh that was used in
    between.

    Args:
        monitor: Name of a logged metric.
        min_gain_per_kwh: What a kWh has to buy, in the metric's own unit, above 0.
        patience: So many checks in a row may be too poor before the training stops.
        mode: ``"min"`` where less is better, or ``"max"``.

    Raises:
        ConfigurationError: A value is impossible; or, once a fit begins, there is no EnergyCallback.
    """

    def __init__(self, monitor: str = "val_loss", *, min_gain_per_kwh: float, patience: int = 3, mode: Mode = "min") -> None:
        """Check the options."""
        self._options: dict[str, Any] = {
            "monitor": monitor,
            "min_gain_per_kwh": min_gain_per_kwh,
            "patience": patience,
            "mode": mode,
        }
        self._rule = GainRule("EnergyEarlyStopping", **self._options)

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Find the EnergyCallback."""
        if stage == "fit":
            self._energy = _energy(trainer, "EnergyEarlyStopping")
            self._rule = GainRule("EnergyEarlyStopping", **self._options)
            self._after_epochs = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the EnergyCallback, and what Lightning hangs on a callback: the next fit finds them anew."""
        return {"_options": self._options, "_rule": self._rule}

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Go on from where the checkpoint was: its energy record knows that."""
        if self._energy.resumed is not None:
            self._rule.restore_state(self._energy.resumed.early_stopping)

    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Check after a validation."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._check(trainer, after_epoch=False)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Check after an epoch without validation, or of which the metric is."""
        self._check(trainer, after_epoch=True)

    def _check(self, trainer: "Trainer", *, after_epoch: bool) -> None:
        """Check if it is time to; in a job of several processes all come here, whatever each of them knows."""
        value = trainer.callback_metrics.get(self._options["monitor"])
        reason = None
        if value is None and not after_epoch:
            self._after_epochs = True  # training may log it, of which this epoch's value is known at its end alone
        elif after_epoch == (self._after_epochs or not trainer.enable_validation):
            reason = self._reason(value)
        reason = _stop(trainer, self._energy, reason)
        if reason is not None:
            self._energy.meter.warn(reason)

    def _reason(self, value: Any) -> str | None:  # noqa: ANN401 - a tensor, or None where the metric is not there
        """Return why the training has to stop, or None."""
        meter = self._energy.meter
        if value is None:
            meter.warn(
                f"EnergyEarlyStopping finds no metric {self._options['monitor']!r}, so that it never stops the training."
            )
            return None
        kwh = meter.sums().kwh if meter.running else None
        if kwh is None:
            return None
        reason = self._rule.check_value(float(value), kwh)
        meter.early_stopping = copy(self._rule.state)
        return reason


def _stop(trainer: "Trainer", energy: EnergyCallback, reason: str | None) -> str | None:
    """Stop the training where a process of its job has a reason to, and return that: a collective; None to go on."""
    reason = _agreed(trainer, energy, reason)
    if reason is not None:
        trainer.should_stop = True
        energy.meter.end_early(reason)
    return reason


def _agreed(trainer: "Trainer", energy: EnergyCallback, reason: str | None) -> str | None:
    """Return the reason of a process of the job that has one: a collective."""
    if trainer.world_size == 1 or joined():
        return energy.agree(reason)
    found = trainer.strategy.reduce_boolean_decision(reason is not None, all=False)
    return reason or ("Another process of the job has a reason to stop." if found else None)


def _energy(trainer: "Trainer", owner: str) -> EnergyCallback:
    """Return the trainer's EnergyCallback.

    Raises:
        ConfigurationError: It has none.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EnergyCallback):
            return callback
    msg = f"{owner} goes by an EnergyCallback: add one to the trainer's callbacks, too."
    raise ConfigurationError(msg)
