"""Optuna's own studies, with meters whose clock is advanced by hand."""

import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.frameworks.optuna import EnergyPruner, StudyEnergyBudget, record_energy, study_energy
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter

WATTS = 100.0
EPOCH_S = 2.0
States = optuna.trial.TrialState


class Trained:
    """A trial's training: 200 J each epoch."""

    def __init__(self, *, readable: bool = True) -> None:
        self.clock = ManualClock()
        counter = ScriptedCounter(PowerCurve(self.clock, WATTS), self.clock, period_s=0.1)
        backends = [ScriptedBackend([counter])] if readable else []
        self.meter = SteppedMeter(self.clock, backends=backends, carbon_intensity=1, verbose=False)

    def epoch(self) -> None:
        with self.meter.stage("train"):
            self.clock.advance(EPOCH_S)


def train(trial: optuna.Trial, *, epochs: int, limit: float | None = None, fails: bool = False, readable: bool = True) -> float:
    trained = Trained(readable=readable)
    try:
        with trained.meter:
            for epoch in range(epochs):
                trained.epoch()
                record_energy(trial, trained.meter)
                trial.report(float(epoch), epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
            if fails:
                message = "power cut"
                raise RuntimeError(message)
    finally:
        record_energy(trial, trained.meter, limit_joules=limit)
    return float(trial.number)


def search(objective: Callable[[optuna.Trial], Any], trials: int, **options: Any) -> optuna.Study:
    callbacks = options.pop("callbacks", None)
    study = optuna.create_study(**options)
    study.optimize(objective, n_trials=trials, callbacks=callbacks, catch=(RuntimeError,))
    return study


def test_a_trial_has_the_energy_of_its_record_with_its_interval() -> None:
    trained = Trained()

    def objective(trial: optuna.Trial) -> float:
        with trained.meter:
            trained.epoch()
        return record_energy(trial, trained.meter) or math.nan

    study = search(objective, 1)
    total = trained.meter.record.total
    assert study.best_value == total.joules >= WATTS * EPOCH_S
    assert study.best_trial.user_attrs == {
        "energy/total/joules": total.joules,
        "energy/total/relative_uncertainty": total.relative_uncertainty,
        "energy/total/provenance": "measured",
        "energy/total/lower_bound": False,
    }


def test_a_trial_beyond_the_limit_or_of_unknown_energy_is_infeasible() -> None:
    study = search(
        lambda trial: train(trial, epochs=[4, 1, 1][trial.number], limit=500, readable=trial.number != 2),
        3,
        direction="maximize",
    )
    beyond, within, unknown = (trial.constraints["energy"] for trial in study.trials)
    assert beyond == study.trials[0].user_attrs["energy/total/joules"] - 500 > 0 > within
    assert unknown == math.inf
    assert study.best_trial.number == 1


def test_an_unknown_objective_fails_the_trial_alone() -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float | None]:
        trained = Trained(readable=trial.number > 0)
        with trained.meter:
            trained.epoch()
        return 1.0, record_energy(trial, trained.meter)

    study = search(objective, 2, directions=["maximize", "minimize"])
    assert [trial.state for trial in study.trials] == [States.FAIL, States.COMPLETE]
    assert [trial.number for trial in study.best_trials] == [1]


def test_pruned_and_failed_trials_count_and_unknown_ones_are_counted() -> None:
    def objective(trial: optuna.Trial) -> float:
        return train(trial, epochs=[1, 9, 2, 1][trial.number], fails=trial.number == 2, readable=trial.number != 3)

    with pytest.warns(UserWarning, match=r"cannot check trial 3, because its energy is unknown\. Call record_energy"):
        study = search(objective, 4, pruner=EnergyPruner(500))
    assert [trial.state for trial in study.trials] == [States.COMPLETE, States.PRUNED, States.FAIL, States.COMPLETE]
    used = [trial.user_attrs["energy/total/joules"] for trial in study.trials]
    assert used[3] is None
    assert used[1] == pytest.approx(3 * WATTS * EPOCH_S, rel=0.2)  # 400 J are within the limit, 600 J are not
    assert study_energy(study) == (pytest.approx(sum(used[:3])), 1)


def test_within_the_limit_the_wrapped_pruner_decides() -> None:
    threshold = optuna.pruners.ThresholdPruner(upper=0.5)  # the second epoch reports 1
    study = search(lambda trial: train(trial, epochs=3), 1, pruner=EnergyPruner(5000, threshold))
    assert study.trials[0].state is States.PRUNED
    assert list(study.trials[0].intermediate_values) == [0, 1]


def test_a_study_ends_with_the_trial_that_spends_its_budget() -> None:
    def objective(trial: optuna.Trial) -> float:
        return train(trial, epochs=2, fails=trial.number == 0, readable=trial.number != 1)

    with pytest.warns(UserWarning, match="trial 1 is unknown and not included"):
        study = search(objective, 9, callbacks=[StudyEnergyBudget(1000)])
    assert len(study.trials) == 4  # 400 J each, but for the unknown one
    energy = study_energy(study)
    assert energy.unknown == 1
    assert energy.joules is not None
    assert 1000 <= energy.joules < 1500


def test_a_trial_that_fails_before_its_training_has_no_energy() -> None:
    def objective(trial: optuna.Trial) -> float:
        try:
            message = "no data"
            raise RuntimeError(message)
        finally:
            assert record_energy(trial, EnergyMeter(carbon_intensity=1)) is None

    assert study_energy(search(objective, 2)) == (None, 2)
    assert study_energy(optuna.create_study()) == (None, 0)


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, True, "5"])
def test_a_limit_is_above_zero(limit: Any) -> None:
    for make in (EnergyPruner, StudyEnergyBudget):
        with pytest.raises(ConfigurationError, match=f"{make.__name__} has joules=.*; give an energy above 0 in J"):
            make(limit)
