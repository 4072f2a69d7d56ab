"""A training script for the tests to start in two processes: 2 epochs of 42 samples, 12 of validation, then a test."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from job_world import Place
from trainer_models import AroundBatch, nothing, paced, trainer
from transformers import TrainerCallback

from ml_energy_callbacks.transformers import EnergyBudget, EnergyCallback


class Around(TrainerCallback):
    """Calls functions as a training begins, and as it ends."""

    def __init__(self, begin: Callable[[], None] = nothing, end: Callable[[], None] = nothing) -> None:
        self.begin, self.end = begin, end

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begin()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.end()


def main() -> None:
    """Train, and test; leave what was logged. The process that is told to fails in the second epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume")
    parser.add_argument("--fails", type=int)
    parser.add_argument("--budget", type=float)
    told = parser.parse_args()
    folder, rank = told.folder, int(os.environ["RANK"])

    def fail(step: int) -> None:
        if (rank, step) == (told.fails, 4):
            msg = "no more"
            raise ValueError(msg)

    place = Place(steady=told.fails is not None or told.budget is not None)
    energy = EnergyCallback(backends=place.backends([rank]), location="FRA", metrics="all")
    callbacks = [Around(end=lambda: place.rest(folder, rank)), energy, Around(begin=place.work)]
    options = {
        "ddp_backend": "gloo",
        "save_strategy": "epoch",
        "gradient_accumulation_steps": 2,
        "include_num_input_tokens_seen": True,
    }
    callbacks += [] if told.budget is None else [EnergyBudget(kwh=told.budget)]
    callbacks += [paced(0.15), AroundBatch(inside=fail)]
    t = trainer(folder, callbacks, samples=42, validation=12, logging_steps=2, **options)
    t.train(resume_from_checkpoint=told.resume)
    t.evaluate()
    (folder / f"logged-{rank}.json").write_text(json.dumps(t.state.log_history), encoding="utf-8")
    t.accelerator.end_training()  # leave the other process together


if __name__ == "__main__":
    main()
