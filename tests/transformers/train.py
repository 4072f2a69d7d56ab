"""A training script for the tests to start in two processes: 2 epochs of 42 samples, 12 of validation, then a test."""

import argparse
import json
import os
from pathlib import Path

from job_world import backends
from trainer_models import AroundBatch, paced, trainer

from ml_energy_callbacks.transformers import EnergyCallback


def main() -> None:
    """Train, and test; leave what was logged. The process that is told to fails in the second epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume")
    parser.add_argument("--fails", type=int)
    told = parser.parse_args()
    folder, rank = told.folder, int(os.environ["RANK"])

    def fail(step: int) -> None:
        if (rank, step) == (told.fails, 4):
            msg = "no more"
            raise ValueError(msg)

    energy = EnergyCallback(backends=backends([rank]), location="FRA")
    options = {"ddp_backend": "gloo", "save_strategy": "epoch", "gradient_accumulation_steps": 2}
    t = trainer(folder, [energy, paced(0.15), AroundBatch(inside=fail)], samples=42, validation=12, logging_steps=2, **options)
    t.train(resume_from_checkpoint=told.resume)
    t.evaluate()
    (folder / f"logged-{rank}.json").write_text(json.dumps(t.state.log_history), encoding="utf-8")
    t.accelerator.end_training()  # leave the other process together


if __name__ == "__main__":
    main()
