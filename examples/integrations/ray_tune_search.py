"""Ray Tune: the Pareto front of accuracy and energy, within budgets of energy.

python ray_tune_search.py [TRIALS], which is 20.
"""

import logging
import sys
from pathlib import Path

import pytorch_lightning as pl
from digits import Digits
from ray import tune

from ml_energy_callbacks.frameworks.ray_tune import EnergyStopper
from ml_energy_callbacks.lightning import EnergyCallback


class Report(pl.Callback):
    """Report accuracy and energy after each epoch."""

    def __init__(self, energy: EnergyCallback) -> None:
        self.energy = energy

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report; Tune stops the trial here if the stopper says so."""
        joules = self.energy.record.total.joules
        tune.report({"accuracy": float(trainer.callback_metrics["val_accuracy"]), "energy/total/joules": joules})


def train(config: dict) -> None:
    """Train with what Tune suggests."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # Not in a directory of Tune's, which keeps no working directory, and copies the others while they are written.
    energy = EnergyCallback(location="FRA", output_dir=f"{config['logs']}/{tune.get_context().get_trial_id()}", verbose=False)
    trainer = pl.Trainer(
        max_epochs=config["epochs"],
        callbacks=[energy, Report(energy)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(hidden=config["hidden"]))


def main(trials: int = 20) -> None:
    """Search."""
    stopper = EnergyStopper(trial_joules=500, total_joules=5000)
    tuner = tune.Tuner(
        train,
        param_space={
            "epochs": tune.randint(1, 7),
            "hidden": tune.lograndint(4, 257),
            "logs": str(Path("energy_logs").resolve()),
        },
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=1),  # so that each energy is of one trial
        run_config=tune.RunConfig(name="front", stop=stopper, verbose=0),
    )
    done = [
        (result.metrics["energy/total/joules"], result.metrics["accuracy"], result.config)
        for result in tuner.fit()
        if result.metrics and result.metrics.get("energy/total/joules") is not None
    ]
    best = 0.0
    print("accuracy  joules  epochs  hidden")
    for joules, accuracy, config in sorted(done, key=lambda each: (each[0], -each[1])):
        if accuracy > best:  # and no trial with less energy is as accurate
            best = accuracy
            print(f"{accuracy:8.1%}  {joules:6.2f}  {config['epochs']:6}  {config['hidden']:6}")
    total = "unknown" if stopper.joules is None else f"{stopper.joules:.1f} J"
    print(f"all trials: {total}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
