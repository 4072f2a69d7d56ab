"""PyTorch Lightning's loops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_models import module, trainer
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset

from frameworks.equality import plain, random_states
from ml_energy_callbacks.lightning import EnergyBudget, EnergyCallback, EnergyEarlyStopping

COUNTED_BY = "torch operators"
FLOPS = (2 * 16, 16)
"""Those of the products of matrices for a sample in ``trained``, in training and in validation."""

FRAMEWORK = "pytorch_lightning"
MODEL = "Linear"
MODULES = ("pytorch_lightning", "torch")
REFUSES_TWO = "more than one stateful callback|two EnergyCallbacks"

__all__ = ["EnergyBudget", "EnergyCallback", "EnergyEarlyStopping"]


class Waiting(Dataset[Any]):
    """Calls a function before each item."""

    def __init__(self, samples: int, on_wait: Callable[[int], None]) -> None:
        self.samples = samples
        self.on_wait = on_wait

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Any:
        self.on_wait(index)
        return torch.randn(8), torch.randn(1)


class AroundBatch(Callback):
    """Calls functions when the data of a batch of training are there, inside the batch, and after it."""

    def __init__(self, before: Callable[[], None], inside: Callable[[int], None], after: Callable[[int], None]) -> None:
        self.before, self.inside, self.after = before, inside, after

    def on_train_batch_start(self, *args: Any) -> None:
        self.before()
        self.inside(args[-1])

    def on_train_batch_end(self, *args: Any) -> None:
        self.after(args[-1])


class OnEpoch(Callback):
    """Calls a function with what is logged at the end of each epoch of training."""

    def __init__(self, seen: Callable[[dict[str, float]], None]) -> None:
        self.seen = seen

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen({name: float(value) for name, value in trainer.callback_metrics.items()})


def nothing(*_: Any) -> None:
    """Do nothing."""


def data(samples: int, batch_size: int) -> DataLoader[Any]:
    """Return random vectors with a target."""
    return DataLoader(TensorDataset(torch.randn(samples, 8), torch.randn(samples, 1)), batch_size=batch_size)


class Loops:
    """A model, and what can be done with it."""

    def __init__(self, folder: Path) -> None:
        """Write what the framework writes into this folder."""
        self.folder = folder
        self.model = module()

    def fit(
        self,
        callbacks: list[Any],
        *,
        samples: int = 40,
        batch_size: int = 4,
        validation: int = 0,
        epochs: int = 2,
        on_wait: Callable[[int], None] | None = None,
        on_data: Callable[[], None] = nothing,
        on_batch: Callable[[int], None] = nothing,
        after_batch: Callable[[int], None] = nothing,
        backup: bool = False,
    ) -> None:
        """Train; validation data come in batches of 5."""
        source: Any = data(samples, batch_size)
        if on_wait is not None:
            source = DataLoader(Waiting(samples, on_wait), batch_size=batch_size)
        keeping = [ModelCheckpoint(self.folder, save_last=True)] if backup else []
        last = self.folder / "last.ckpt"
        trainer(
            self.folder,
            [*callbacks, AroundBatch(on_data, on_batch, after_batch), *keeping],
            max_epochs=epochs,
            num_sanity_val_steps=0,
            enable_checkpointing=backup,
        ).fit(
            self.model,
            source,
            data(validation, 5) if validation else None,
            ckpt_path=str(last) if backup and last.exists() else None,
        )

    def test(self, callbacks: list[Any], samples: int, batch_size: int) -> None:
        """Evaluate."""
        trainer(self.folder, callbacks).test(self.model, data(samples, batch_size), verbose=False)

    def predict(self, callbacks: list[Any], samples: int, batch_size: int) -> None:
        """Predict."""
        trainer(self.folder, callbacks).predict(self.model, data(samples, batch_size))


def record_folder(folder: Path) -> dict[str, Any]:
    """Return the options that let the record go into a folder: Lightning's own directory is there."""
    del folder
    return {}


def trained(folder: Path, callbacks: list[Any]) -> dict[str, Any]:
    """Train from a seed, and return all that came of it, but for what is ours."""
    seed_everything(1)
    order: list[int] = []
    model = module()
    model.layer = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))
    model.configure_optimizers = lambda: torch.optim.Adam(model.parameters(), lr=0.01)
    keeping = ModelCheckpoint(folder, save_last=True)
    run = trainer(folder, [*callbacks, keeping], enable_checkpointing=True)
    run.fit(model, DataLoader(Waiting(40, order.append), batch_size=4, shuffle=True), data(8, 4))
    saved = torch.load(folder / "last.ckpt", weights_only=False)
    saved["callbacks"] = {name: "" for name in saved["callbacks"] if not name.startswith("EnergyCallback")}
    return {
        "weights": plain(model.state_dict()),
        "optimiser": plain(run.optimizers[0].state_dict()),
        "order": order,
        "checkpoint": plain(saved),
        "random": {**random_states(), "torch": plain(torch.get_rng_state())},
        "metrics": {name: float(value) for name, value in run.callback_metrics.items() if not name.startswith("energy/")},
    }
