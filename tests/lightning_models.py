"""Small real modules, data and trainers of both Lightning packages."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

PACKAGES = ("pytorch_lightning", "lightning.pytorch")


def loader(samples: int = 40, batch_size: int = 4) -> DataLoader[Any]:
    """Return random vectors of 8 numbers with a target."""
    return DataLoader(TensorDataset(torch.randn(samples, 8), torch.randn(samples, 1)), batch_size=batch_size)


def module(package: str = "pytorch_lightning") -> Any:
    """Return a linear regression."""
    pl = importlib.import_module(package)

    class Linear(pl.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 1)

        def _loss(self, batch: Any) -> torch.Tensor:
            return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self._loss(batch)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("loss", self._loss(batch))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self._loss(batch)

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Linear()


def trainer(folder: Path, callbacks: Any, package: str = "pytorch_lightning", **options: Any) -> Any:
    """Return a trainer on the processor that prints nothing."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
        "logger": False,
        "log_every_n_steps": 2,
    }
    return importlib.import_module(package).Trainer(callbacks=callbacks, **{**defaults, **options})
