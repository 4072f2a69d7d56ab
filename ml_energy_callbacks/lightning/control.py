"""Callbacks that stop a training by its energy, which they read from the EnergyCallback in the same list."""

from typing import TYPE_CHECKING, Any

from ml_energy_callbacks.control import Action, Budget, Mode
from ml_energy_callbacks.frameworks.callback import MeteredCallback, find_energy_callback
from ml_energy_callbacks.frameworks.guard import guard_hooks
from ml_energy_callbacks.frameworks.stopping import BesideEnergy, EarlyStopping
from ml_energy_callbacks.frameworks.torch import joined
from ml_energy_callbacks.lightning.base import Callback, adopt_imported
from ml_energy_callbacks.lightning.energy_callback import EnergyCallback
from ml_energy_callbacks.lightning.internals import was_saved_at
from ml_energy_callbacks.record.storage import as_place, below

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

_CHECKPOINT = "energy-budget.ckpt"


@guard_hooks
class EnergyBudget(BesideEnergy, Callback):
    """Stop the training at the end of the batch in which a budget is spent, as ``trainer.should_stop`` does, and save it.

    The record's status is then ``stopped``, with the reason. If the trainer's own checkpoint callbacks do not save the end of
    the training, ``energy-budget.ckpt`` is saved beside their checkpoints; a trainer without them saves none. A warning is
    logged at 80 %. In a job of several processes the budget is checked every ``log_every_n_steps`` batches, as all processes
    have to stop after the same batch.

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
        adopt_imported()
        self._budget = Budget("EnergyBudget", kwh=kwh, co2e_grams=co2e_grams, cost=cost, action=action)

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Find the EnergyCallback."""
        if stage == "fit":
            self._energy = find_energy_callback(trainer.callbacks, EnergyCallback, "EnergyBudget")  # type: ignore[attr-defined]
            self._budget.check_price(self._meter)
            self._budget.begin_training()
            self._batches = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the EnergyCallback and the attributes that Lightning sets: the next fit sets them again."""
        return {"_budget": self._budget}

    def on_train_batch_end(self, trainer: "Trainer", *_: Any) -> None:  # noqa: ANN401 - the hook's other arguments are not used
        """Check whether the budget is spent."""
        self._batches += 1
        if trainer.world_size == 1 or self._batches % (trainer.log_every_n_steps or 1) == 0:  # type: ignore[attr-defined]
            self._check_budget(trainer)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Check it in a job of several processes as well, whose epochs may be short."""
        if trainer.world_size > 1:
            self._check_budget(trainer)

    def _check_budget(self, trainer: "Trainer") -> None:
        """Stop all processes if one of them finds the budget spent; all of them call this after the same batch."""
        self._meter.share()
        self._budget.is_spent(self._meter)
        _stop_training(trainer, self._energy, self._budget.reason)

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Save a checkpoint if the budget ended the training, unless the trainer's own callbacks have saved one."""
        self._budget.end_training(self._meter)
        savers = trainer.checkpoint_callbacks
        spent = _agree_on_reason(trainer, self._energy, self._budget.reason if trainer.should_stop else None)
        if spent is None or not savers or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not any(was_saved_at(saver, trainer.global_step) for saver in savers):
            folder = getattr(savers[0], "dirpath", None) or trainer.default_root_dir
            trainer.save_checkpoint(below(as_place(folder), _CHECKPOINT))


@guard_hooks
class EnergyEarlyStopping(BesideEnergy, Callback):
    """Stop the training when a metric gains too little per kilowatt-hour.

    The metric is checked after each validation, or after each epoch if there is no validation or if the metric is logged in
    training. A value is the new best if it improved on the last best by at least ``min_gain_per_kwh`` for each kWh used since
    then.

    Args:
        monitor: Name of a logged metric.
        min_gain_per_kwh: Least gain per kWh, in the metric's own unit, above 0.
        patience: Number of checks in a row without a new best after which the training stops.
        mode: ``"min"`` if less is better, or ``"max"``.

    Raises:
        ConfigurationError: A value is impossible; or, when a fit begins, there is no EnergyCallback.
    """

    def __init__(self, monitor: str = "val_loss", *, min_gain_per_kwh: float, patience: int = 3, mode: Mode = "min") -> None:
        """Check the options."""
        adopt_imported()
        self._rule = EarlyStopping(monitor, min_gain_per_kwh=min_gain_per_kwh, patience=patience, mode=mode)

    @property
    def monitor(self) -> str:
        """Name of the metric."""
        return self._rule.monitor

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Find the EnergyCallback."""
        if stage == "fit":
            self._energy = find_energy_callback(trainer.callbacks, EnergyCallback, "EnergyEarlyStopping")  # type: ignore[attr-defined]
            self._rule.begin_training()
            self._after_epochs = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the EnergyCallback and the attributes that Lightning sets: the next fit sets them again."""
        return {"_rule": self._rule}

    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Check after a validation."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._check_metric(trainer, after_epoch=False)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Check after an epoch, if there is no validation or the metric is logged in training."""
        self._check_metric(trainer, after_epoch=True)

    def _check_metric(self, trainer: "Trainer", *, after_epoch: bool) -> None:
        """Check the metric if this is when it is checked; all processes of a job call this, with or without a value."""
        value = trainer.callback_metrics.get(self.monitor)
        reason = None
        if value is None and not after_epoch:
            self._after_epochs = True  # training may log it: this epoch's value is known only at its end
        elif after_epoch == (self._after_epochs or not trainer.enable_validation):
            reason = self._rule.reason_to_stop(self._energy, value)
        reason = _stop_training(trainer, self._energy, reason)
        if reason is not None:
            self._meter.warn(reason)


def _stop_training(trainer: "Trainer", energy: MeteredCallback, reason: str | None) -> str | None:
    """Stop the training if a process of the job has a reason to; return it, or None. All processes have to call this."""
    reason = _agree_on_reason(trainer, energy, reason)
    if reason is not None:
        trainer.should_stop = True
        energy.meter.end_early(reason)
    return reason


def _agree_on_reason(trainer: "Trainer", energy: MeteredCallback, reason: str | None) -> str | None:
    """Return the reason of a process of the job that has one, or None; all processes have to call this."""
    if trainer.world_size == 1 or joined():
        return energy.agree(reason)
    found = trainer.strategy.reduce_boolean_decision(reason is not None, all=False)
    return reason or ("Another process of the job stopped the training." if found else None)
