"""Optuna: a search by loss and energy, and one with pruning whose whole energy is known."""

import logging

import optuna
import pytorch_lightning as pl
from digits import Digits

from ml_energy_callbacks.lightning import EnergyCallback

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


def train(trial: optuna.Trial, *callbacks: pl.Callback) -> tuple[float, float]:
    """Train with what a trial suggests, and return the loss and the energy in J; it is also an attribute of the trial."""
    energy = EnergyCallback(location="FRA", output_dir=f"energy_logs/{trial.study.study_name}/{trial.number}", verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=3, callbacks=[energy, *callbacks], **quiet)
    trainer.fit(Digits(hidden=trial.suggest_int("hidden", 8, 64, log=True)))
    joules = energy.record.total.joules
    trial.set_user_attr("joules", joules)
    return float(trainer.callback_metrics["val_loss"]), joules


class Pruning(pl.Callback):
    """End the training of a trial that the study prunes."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial, self.pruned = trial, False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the loss; the trainer stops after this epoch, so that the run ends as usual, with its energy."""
        if not trainer.sanity_checking:
            self.trial.report(float(trainer.callback_metrics["val_loss"]), trainer.current_epoch)
            self.pruned = trainer.should_stop = self.trial.should_prune()


def pruned_train(trial: optuna.Trial) -> float:
    """Train, unless the study prunes the trial, and return the loss."""
    pruning = Pruning(trial)
    loss, _ = train(trial, pruning)
    if pruning.pruned:
        raise optuna.TrialPruned
    return loss


def main() -> None:
    """Search twice."""
    study = optuna.create_study(study_name="both", directions=["minimize", "minimize"])
    study.optimize(train, n_trials=3)
    for trial in study.best_trials:  # no other one has both a smaller loss and less energy
        print(f"{trial.params}: loss {trial.values[0]:.3g}, {trial.values[1]:.3g} J")

    pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    study = optuna.create_study(study_name="pruned", pruner=pruner)
    study.optimize(pruned_train, n_trials=3)
    joules = sum(trial.user_attrs["joules"] for trial in study.trials)  # pruned ones included
    print(f"loss {study.best_value:.3g} for {joules:.3g} J in all")


if __name__ == "__main__":
    main()
