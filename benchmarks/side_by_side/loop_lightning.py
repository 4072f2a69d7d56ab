"""A fit of Lightning, whose batch hooks are timed."""

import logging
import tempfile

import pytorch_lightning as pl
import torch
from hooks import timed
from torch.utils.data import DataLoader, TensorDataset

from ml_energy_callbacks.lightning import EnergyCallback

from .marks import Marks, hook_times

OFF = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Empty(pl.Callback):
    """Overrides the two hooks and does nothing."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        """Do nothing."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Do nothing."""


class Marking(pl.Callback):
    """Marks the batches for a tool."""

    def __init__(self, marks: Marks):
        self.begin, self.end = marks.begin, marks.end

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        """Mark the start."""
        self.begin()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Mark the end."""
        self.end()


class Tiny(pl.LightningModule):
    """A minimal model."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        """Return the loss."""
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        """Use plain descent."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(callback, batches) -> list[int]:
    """Return the time of the hooks of each batch in ns."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    times = timed(callback, "on_train_batch_start", "on_train_batch_end")
    data = DataLoader(TensorDataset(torch.randn(batches * 4, 4)), batch_size=4)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[callback], default_root_dir=folder, **OFF)
        trainer.fit(Tiny(), data)
    return times


def run(kind, batches) -> list[int]:
    """Return the time of a tool's hooks of each batch in ns; ours are those of the callback."""
    return hook_times(kind, batches, fit, Empty, EnergyCallback, Marking)
