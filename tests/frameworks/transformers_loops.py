"""The loops of the Trainer of Hugging Face."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer_models import AroundBatch, Sentences, nothing, trainer

from ml_energy_callbacks.transformers import EnergyCallback

FRAMEWORK = "transformers"
MODEL = r"Bert\w+"
REFUSES_TWO = "two EnergyCallbacks"

__all__ = ["EnergyCallback"]


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
        ).train()

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
