"""Optuna: the Pareto front of accuracy and energy, and a search with pruning within a budget of energy.

python optuna_search.py [TRIALS], which is 20.
"""

import logging
import sys

import optuna
import pytorch_lightning as pl
from digits import Digits

from ml_energy_callbacks.frameworks.optuna import EnergyPruner, StudyEnergyBudget, record_energy, study_energy
from ml_energy_callbacks.lightning import EnergyCallback

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
optuna.logging.set_verbosity(optuna.logging.WARNING)


class Pruning(pl.Callback):
    """End the training of a trial that the study prunes."""

    def __init__(self, trial: optuna.Trial, energy: EnergyCallback) -> None:
        self.trial, self.energy, self.pruned = trial, energy, False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report accuracy and energy; the trainer stops after this epoch, so that the run ends as usual, with its energy."""
        if not trainer.sanity_checking:
            record_energy(self.trial, self.energy)  # for the pruner
            self.trial.report(float(trainer.callback_metrics["val_accuracy"]), trainer.current_epoch)
            self.pruned = trainer.should_stop = self.trial.should_prune()


def train(trial: optuna.Trial, *, prune: bool = False) -> tuple[float, float | None]:
    """Train with what a trial suggests, and return the accuracy and the energy in J."""
    energy = EnergyCallback(location="FRA", output_dir=f"energy_logs/{trial.study.study_name}/{trial.number}", verbose=False)
    pruning = Pruning(trial, energy)
    trainer = pl.Trainer(
        max_epochs=trial.suggest_int("epochs", 1, 6),
        callbacks=[energy, pruning] if prune else [energy],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(Digits(hidden=trial.suggest_int("hidden", 4, 256, log=True)))
    finally:  # a failed trial has used energy, too
        joules = record_energy(trial, energy)
    if pruning.pruned:
        raise optuna.TrialPruned
    return float(trainer.callback_metrics["val_accuracy"]), joules


def print_total(study: optuna.Study) -> None:
    """Print the energy of all trials."""
    joules, unknown = study_energy(study)
    total = "unknown" if joules is None else f"{joules:.1f} J"
    pruned = sum(trial.state is optuna.trial.TrialState.PRUNED for trial in study.trials)
    print(f"all {len(study.trials)} trials, {pruned} of them pruned: {total}; energy unknown of {unknown}")


def main(trials: int = 20) -> None:
    """Search twice."""
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(study_name="front", directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(train, n_trials=trials)
    print("accuracy  joules  95 % interval  epochs  hidden")
    for trial in sorted(study.best_trials, key=lambda trial: trial.values[1]):  # no other trial is better in both
        accuracy, joules = trial.values
        half = joules * (trial.user_attrs["energy/total/relative_uncertainty"] or float("nan"))
        interval = f"{max(0.0, joules - half):.2f} to {joules + half:.2f}"
        print(f"{accuracy:8.1%}  {joules:6.2f}  {interval:>13}  {trial.params['epochs']:6}  {trial.params['hidden']:6}")
    print_total(study)

    joules = study_energy(study).joules
    if joules is None:
        return  # nothing to derive a budget from
    pruner = EnergyPruner(2 * joules / trials, optuna.pruners.MedianPruner(n_startup_trials=2))
    study = optuna.create_study(
        study_name="pruned", direction="maximize", pruner=pruner, sampler=optuna.samplers.TPESampler(seed=0)
    )
    study.optimize(lambda trial: train(trial, prune=True)[0], n_trials=trials, callbacks=[StudyEnergyBudget(joules / 2)])
    completed = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    best = max((trial.value for trial in completed), default=float("nan"))
    print(f"best accuracy {best:.1%} within a budget of {joules / 2:.1f} J")
    print_total(study)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
