"""Energy of the trials of an Optuna study: attributes, a constraint, a pruner, and a budget of the whole study.

An objective needs none of it: return ``energy.record.total.joules`` as one of the values. Optuna fails a trial whose value is
None, which an unknown energy is, and the study continues.
"""

import math
import warnings
from typing import Any, NamedTuple, Protocol

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from ml_energy_callbacks.control.limits import check_limit
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.record.schema import RunRecord

JOULES = "energy/total/joules"


class Recorded(Protocol):
    """A callback or a meter: what has a record of the run."""

    @property
    def record(self) -> RunRecord:
        """The record as of now."""


class StudyEnergy(NamedTuple):
    """Energy of a study's trials.

    Attributes:
        joules: Sum in J over the trials whose energy is known, pruned and failed ones included; None if it is known of none.
        unknown: Number of trials that have begun and whose energy is unknown; that is missing from the sum.
    """

    joules: float | None
    unknown: int


def record_energy(trial: Trial, energy: Recorded, *, limit_joules: float | None = None) -> float | None:
    """Store the energy that a trial has used so far in its user attributes.

    These are ``energy/total/joules``, ``.../relative_uncertainty`` (half-width of the 95 % interval), ``.../provenance`` and
    ``.../lower_bound``, as in the record. Call it after the training, in a ``finally``, so that failed and pruned trials have
    theirs; and before ``trial.should_prune()``, if :class:`EnergyPruner` is to check it.

    Args:
        trial: The trial.
        energy: The ``EnergyCallback`` or the ``EnergyMeter`` of the trial.
        limit_joules: Energy in J above which the trial is infeasible: Optuna's constraint ``energy``. Optuna keeps the first
            value of a constraint, so give it after the training only. A trial whose energy is unknown is infeasible.

    Returns:
        The energy in J; None if it is unknown, or nothing has been measured.

    Raises:
        ConfigurationError: The limit is not above 0.
    """
    if limit_joules is not None:
        check_limit("record_energy", "limit_joules", limit_joules, "an energy above 0 in J")
    attributes: dict[str, Any] = {JOULES: None}
    try:
        total = energy.record.total
    except ConfigurationError:  # the training failed before the meter started
        pass
    else:
        attributes = {
            JOULES: total.joules,
            "energy/total/relative_uncertainty": total.relative_uncertainty,
            "energy/total/provenance": total.provenance,
            "energy/total/lower_bound": total.lower_bound,
        }
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    joules: float | None = attributes[JOULES]
    if limit_joules is not None:
        trial.set_constraint("energy", math.inf if joules is None else joules - limit_joules)
    return joules


def study_energy(study: Study) -> StudyEnergy:
    """Return the energy of all trials of a study that have begun, by what :func:`record_energy` stored."""
    begun = [trial for trial in study.get_trials(deepcopy=False) if trial.datetime_start is not None]
    known = [joules for trial in begun if (joules := trial.user_attrs.get(JOULES)) is not None]
    return StudyEnergy(sum(known) if known else None, len(begun) - len(known))


class EnergyPruner(BasePruner):
    """Prune a trial that has used more than a given energy.

    The energy is the one that :func:`record_energy` stored last; while it is unknown, the trial is not pruned for it, and there
    is a warning. Optuna prunes studies of one objective only; for several, add ``EnergyBudget`` to the trainer's callbacks.
    """

    def __init__(self, joules: float, wrapped_pruner: BasePruner | None = None) -> None:
        """Set the limit.

        Args:
            joules: Energy of one trial in J.
            wrapped_pruner: Pruner that decides about trials within the limit; None to prune none of them.

        Raises:
            ConfigurationError: The limit is not above 0.
        """
        check_limit("EnergyPruner", "joules", joules, "an energy above 0 in J")
        self._limit = joules
        self._wrapped = wrapped_pruner

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether the trial has used more, or the wrapped pruner prunes it."""
        joules = trial.user_attrs.get(JOULES)
        if joules is None:
            _warn(f"EnergyPruner cannot check trial {trial.number}, because its energy is unknown.")
        elif joules > self._limit:
            return True
        return self._wrapped is not None and self._wrapped.prune(study, trial)


class StudyEnergyBudget:
    """Stop a study once its trials, pruned and failed ones included, have used a given energy.

    It is a callback of ``optimize``, and checked after each trial, so that the last one may exceed the budget. Trials whose
    energy is unknown are not included, and there is a warning.
    """

    def __init__(self, joules: float) -> None:
        """Set the limit.

        Args:
            joules: Energy of all trials in J, those of earlier calls of ``optimize`` included.

        Raises:
            ConfigurationError: The limit is not above 0.
        """
        check_limit("StudyEnergyBudget", "joules", joules, "an energy above 0 in J")
        self._limit = joules

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Stop the study if the budget is spent."""
        if trial.user_attrs.get(JOULES) is None:
            _warn(f"The energy of trial {trial.number} is unknown and not included in the study's budget.")
        joules = study_energy(study).joules
        if joules is not None and joules >= self._limit:
            study.stop()


def _warn(message: str) -> None:
    hint = "Call record_energy(trial, energy) in the objective, also if the training fails; see docs/sweeps.md."
    warnings.warn(f"{message} {hint}", stacklevel=3)
