"""Weights & Biases without a network; `wandb sync wandb/offline-run-*` uploads the run later."""

import pytorch_lightning as pl
from digits import Digits
from pytorch_lightning.loggers import WandbLogger

from ml_energy_callbacks.lightning import EnergyCallback


def main() -> None:
    """Train, and print the energy as the table of runs shows it."""
    logger = WandbLogger(project="digits", offline=True)
    energy = EnergyCallback(location="FRA", output_dir="energy_logs/wandb")
    pl.Trainer(max_epochs=2, callbacks=[energy], logger=logger, enable_checkpointing=False).fit(Digits())
    print(logger.experiment.summary["energy/total/kwh"], "kWh")
    logger.experiment.finish()


if __name__ == "__main__":
    main()
