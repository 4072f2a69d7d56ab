"""Callbacks that stop a training by its energy, which they read from the EnergyCallback in the same list."""

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ml_energy_callbacks.control import Action, Budget, Mode
from ml_energy_callbacks.frameworks.callback import find_energy_callback
from ml_energy_callbacks.frameworks.guard import guard_hooks
from ml_energy_callbacks.frameworks.stopping import BesideEnergy, EarlyStopping
from ml_energy_callbacks.transformers.energy_callback import EnergyCallback
from ml_energy_callbacks.transformers.internals import callbacks_beside


class _InList(BesideEnergy, TrainerCallback):
    """A callback of the Trainer that finds the EnergyCallback by the list that called a hook."""

    _energy: EnergyCallback

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the EnergyCallback: the next training finds it again."""
        return {name: value for name, value in self.__dict__.items() if name != "_energy"}

    def _find(self, hook: FrameType, owner: str) -> None:
        """Find the EnergyCallback of the list that called a hook.

        Raises:
            ConfigurationError: The list has none.
        """
        self._energy = find_energy_callback(callbacks_beside(hook), EnergyCallback, owner)

    def _trains(self, state: TrainerState) -> bool:
        """Return whether the training of this state runs: the Trainer calls some hooks outside of a training as well."""
        return "_energy" in vars(self) and self._energy.measures_training(state)

    def _stop(self, args: TrainingArguments, control: TrainerControl, reason: str | None) -> str | None:
        """Stop the training if a process of the job has a reason to; return it, or None. All processes have to call this."""
        reason = self._energy.agree(reason)
        if reason is None:
            return None
        if args.world_size > 1 and not self._energy.in_job:  # the others would wait for this process
            self._meter.warn("The training continues, as the processes of this job cannot agree on when to stop.")
            return None
        control.should_training_stop = True
        self._meter.end_early(reason)
        return reason


@guard_hooks
class EnergyBudget(_InList):
    """Stop the training at the end of the step in which a budget is spent, as ``control.should_training_stop`` does.

    The Trainer then evaluates and saves a checkpoint as at the end of the training that was planned. The record's status is
    ``stopped``, with the reason. A warning is logged at 80 %. In a job of several processes the budget is checked every
    ``logging_steps`` steps and after each epoch, as all processes have to stop after the same step.

    Args:
        kwh: Energy in kWh, of the whole record: a training that resumes includes the energy used before.
        co2e_grams: Emissions in g CO2e.
        cost: Cost in the currency of the EnergyCallback, which needs an ``electricity_price``.
        action: ``"stop"``, or ``"warn"`` to log a warning and continue.

    Raises:
        ConfigurationError: There is no limit, or one that is not above zero; or, when a training begins, there is no
            EnergyCallback.
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

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Find the EnergyCallback."""
        self._find(sys._getframe(), "EnergyBudget")  # noqa: SLF001 - there is no other way to find the caller
        self._budget.check_price(self._meter)
        self._budget.begin_training()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check whether the budget is spent."""
        if args.world_size == 1 or state.global_step % (state.logging_steps or 1) == 0:
            self._check_budget(args, state, control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check it in a job of several processes as well, whose epochs may be short, unless the training ends anyway."""
        if args.world_size > 1 and not control.should_training_stop:
            self._check_budget(args, state, control)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Warn of limits that could not be checked."""
        self._budget.end_training(self._meter)

    def _check_budget(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        """Stop all processes if one of them finds the budget spent; all of them call this after the same step."""
        self._meter.share()
        self._budget.is_spent(self._meter)
        if self._stop(args, control, self._budget.reason) is not None:
            _close_as_planned(args, state, control)


@guard_hooks
class EnergyEarlyStopping(_InList):
    """Stop the training when a metric gains too little per kilowatt-hour.

    A metric of evaluations, whose name begins with ``eval_``, is checked after each evaluation; any other after each epoch, by
    the value that was logged last. A value is the new best if it improved on the last best by at least ``min_gain_per_kwh`` for
    each kWh used since then. A training that resumes from a checkpoint continues from the saved state. In a job of several
    processes, all stop if one has a reason to.

    Args:
        monitor: Name of a logged metric.
        min_gain_per_kwh: Least gain per kWh, in the metric's own unit, above 0.
        patience: Number of checks in a row without a new best after which the training stops.
        mode: ``"min"`` if less is better, or ``"max"``.

    Raises:
        ConfigurationError: A value is impossible; or, when a training begins, there is no EnergyCallback.
    """

    def __init__(self, monitor: str = "eval_loss", *, min_gain_per_kwh: float, patience: int = 1, mode: Mode = "min") -> None:
        """Check the options."""
        self._rule = EarlyStopping(monitor, min_gain_per_kwh=min_gain_per_kwh, patience=patience, mode=mode)
        self._evaluated = self.monitor.startswith("eval_")
        self._begin()

    def _begin(self) -> None:
        """Begin a training."""
        self._rule.begin_training()
        self._newest: Any = None  # value since the last check
        self._awaits_log = False  # whether the log of an epoch that has ended is still to come
        self._found = self._due = False  # whether the metric was logged, and metrics with which it should come

    @property
    def monitor(self) -> str:
        """Name of the metric."""
        return self._rule.monitor

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Find the EnergyCallback."""
        self._find(sys._getframe(), "EnergyEarlyStopping")  # noqa: SLF001 - as above
        self._begin()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Remember the newest value; check it if this is the log of an epoch that has ended."""
        if not logs or not self._trains(state):
            return
        self._newest = logs.get(self.monitor, self._newest)
        self._found = self._found or self.monitor in logs
        self._due = self._due or any(name.startswith("eval_" if self._evaluated else "loss") for name in logs)
        if self._awaits_log and "loss" in logs:
            self._check_newest(args, control)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Check a metric of evaluations; where there are several data sets, one of them has it."""
        if self._evaluated and metrics and self.monitor in metrics and self._trains(state):
            self._newest, self._found = metrics[self.monitor], True
            self._check_newest(args, control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check a metric of training: now, or when the Trainer has logged the epoch."""
        if self._evaluated:
            return
        self._awaits_log = control.should_log
        if not self._awaits_log:
            self._check_newest(args, control)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Warn if the metric is missing in what was logged so far."""
        if self._due and not self._found:
            self._rule.reason_to_stop(self._energy, None)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Warn if there was no such metric at all."""
        if not self._found:
            self._rule.reason_to_stop(self._energy, None)

    def _check_newest(self, args: TrainingArguments, control: TrainerControl) -> None:
        """Check the newest value; all processes of a job call this, with or without one."""
        value, self._newest, self._awaits_log = self._newest, None, False
        reason = None if value is None else self._rule.reason_to_stop(self._energy, value)
        reason = self._stop(args, control, reason)
        if reason is not None:
            self._meter.warn(reason)


def _close_as_planned(args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
    """Let the Trainer evaluate and save after this step if it does so by steps; by epochs it does without."""
    if args.save_strategy == "steps" and state.global_step % (state.save_steps or 1):
        control.should_save = True
    if args.eval_strategy == "steps" and state.global_step % (state.eval_steps or 1) and args.eval_delay <= state.global_step:
        control.should_evaluate = True
