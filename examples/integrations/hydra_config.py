"""Hydra: python hydra_config.py energy.location=DEU, or -m model.hidden=16,64 for several runs."""

import hydra
import pytorch_lightning as pl
from omegaconf import DictConfig


@hydra.main(version_base=None, config_path=".", config_name="hydra_config")
def main(config: DictConfig) -> None:
    """Train, and print the energy; the record is in Hydra's directory of the run."""
    energy = hydra.utils.instantiate(config.energy)
    trainer = pl.Trainer(**config.trainer, callbacks=[energy], logger=False)
    trainer.fit(hydra.utils.instantiate(config.model))
    print(f"{energy.record.total.joules:.3g} J: {energy.record_path}")


if __name__ == "__main__":
    main()
