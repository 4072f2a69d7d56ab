"""A training script for the tests to start in several processes: 2 epochs of 42 samples, 12 of validation, then a test."""

import sys
from pathlib import Path

from trainer_models import trainer

from ml_energy_callbacks.transformers import EnergyCallback


def main() -> None:
    """Train, and test."""
    energy = EnergyCallback(devices=["cpu-model:0", "memory-model:0"])
    t = trainer(Path(sys.argv[1]), [energy], samples=42, validation=12, logging_steps=2, ddp_backend="gloo")
    t.train()
    t.evaluate()
    t.accelerator.end_training()  # leave the other process together


if __name__ == "__main__":
    main()
