"""The loops of the Trainer of Hugging Face."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trainer_models import TOKENS, AroundBatch, Sentences, nothing, trainer
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from frameworks.equality import plain, random_states
from ml_energy_callbacks.transformers import EnergyBudget, EnergyCallback, EnergyEarlyStopping

_PRODUCTS = 2 * (2 * 6 * 32 * 32 * TOKENS + 4 * 32 * TOKENS**2) + 2 * 32 * 32 + 2 * 32 * 2
"""FLOPs of a sample: six products of width 32 and attention in each of two layers, the pooler and the classifier."""

COUNTED_BY = "torch operators"
FLOPS = (3 * _PRODUCTS, _PRODUCTS)
"""Those of the products of matrices for a sample in ``trained``, in training and in validation."""

FRAMEWORK = "transformers"
MODEL = r"Bert\w+"
REFUSES_TWO = "two EnergyCallbacks"

__all__ = ["EnergyBudget", "EnergyCallback", "EnergyEarlyStopping"]


class OnEpoch(TrainerCallback):
    """Calls a function with what is logged at the end of each epoch of training."""

    def __init__(self, seen: Callable[[dict[str, float]], None]) -> None:
        self.seen = seen

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        entries = [entry for entry in state.log_history if entry["step"] == state.global_step]
        self.seen({name: value for entry in entries for name, value in entry.items()})


class Loops:
    """A model, and what can be done with it."""

    def __init__(self, folder: Path) -> None:
        """Write what the framework writes into this folder."""
        self.folder = folder

    def fit(
        self,
        callbacks: list[Any],
        *,
        samples: int = 40,
        batch_size: int = 4,
        validation: int = 0,
        epochs: int = 2,
        on_batch: Callable[[int], None] = nothing,
        after_batch: Callable[[int], None] = nothing,
        backup: bool = False,
    ) -> None:
        """Train; validation data come in batches of 5."""
        around = AroundBatch(inside=on_batch, after=after_batch)
        trainer(
            self.folder,
            [*callbacks, around],
            samples=samples,
            validation=validation,
            per_device_train_batch_size=batch_size,
            num_train_epochs=epochs,
            save_strategy="epoch" if backup else "no",
        ).train(resume_from_checkpoint=get_last_checkpoint(str(self.folder)) if backup else None)

    def test(self, callbacks: list[Any], samples: int, batch_size: int) -> None:
        """Evaluate."""
        trainer(self.folder, callbacks, validation=samples, per_device_eval_batch_size=batch_size).evaluate()

    def predict(self, callbacks: list[Any], samples: int, batch_size: int) -> None:
        """Predict."""
        trainer(self.folder, callbacks, per_device_eval_batch_size=batch_size).predict(Sentences(samples))


def record_folder(folder: Path) -> dict[str, Any]:
    """Return the options that let the record go into a folder: the Trainer's own directory is there."""
    del folder
    return {}


_TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
_EVALUATION_TIMES = tuple(name.replace("train", "eval") for name in _TIMES)


def trained(folder: Path, callbacks: list[Any]) -> dict[str, Any]:
    """Train from a seed, and return all that came of it, but for what is ours and how long it took."""
    set_seed(1)
    order: list[int] = []
    run = trainer(folder, callbacks, validation=8, on_wait=order.append, save_strategy="epoch")
    run.train()
    kept = folder / "checkpoint-20"
    state = json.loads((kept / "trainer_state.json").read_text("utf-8"))
    for entry in state["log_history"]:
        for name in [name for name in entry if name.startswith("energy/") or name in (*_TIMES, *_EVALUATION_TIMES)]:
            del entry[name]
    state["best_model_checkpoint"] = None  # a path
    files = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
    return {
        "weights": plain(run.model.state_dict()),
        "optimiser": plain(run.optimizer.state_dict()),
        "order": order,
        "checkpoint": {name: plain(torch.load(kept / name, weights_only=False)) for name in files},
        "checkpoint's weights": (kept / "model.safetensors").read_bytes(),
        "state": state,
        "random": {**random_states(), "torch": plain(torch.get_rng_state())},
    }
