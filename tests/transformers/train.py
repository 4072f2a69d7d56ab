"""A training script for the tests to start in two processes: 2 epochs of 42 samples, 12 of validation, then a test."""

import json
import os
import sys
from pathlib import Path

from job_world import backends
from trainer_models import paced, trainer

from ml_energy_callbacks.transformers import EnergyCallback


def main() -> None:
    """Train, and test; leave what was logged."""
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    energy = EnergyCallback(backends=backends([rank]), location="FRA")
    options = {"ddp_backend": "gloo", "save_strategy": "epoch", "gradient_accumulation_steps": 2}
    t = trainer(folder, [energy, paced(0.15)], samples=42, validation=12, logging_steps=2, **options)
    t.train(resume_from_checkpoint=sys.argv[2] if len(sys.argv) > 2 else None)
    t.evaluate()
    (folder / f"logged-{rank}.json").write_text(json.dumps(t.state.log_history), encoding="utf-8")
    t.accelerator.end_training()  # leave the other process together


if __name__ == "__main__":
    main()
