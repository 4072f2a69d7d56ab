"""A small convolutional network on scikit-learn's handwritten digits, with PyTorch Lightning."""

import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from ml_energy_callbacks.demo.outcome import Outcome
from ml_energy_callbacks.lightning import EnergyCallback

_BATCH_SIZE = 64
_SEED = 0


class DigitsNet(pl.LightningModule):
    """Classify the digit in an image of shape (1, 8, 8)."""

    def __init__(self) -> None:
        """Build two convolutions and a linear layer."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(64 * 4 * 4, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, 10) for images of shape (batch, 1, 8, 8)."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Return the mean cross-entropy."""
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def _evaluate(self, batch: list[Tensor], name: str) -> None:
        images, labels = batch
        accuracy = (self.net(images).argmax(1) == labels).float().mean()
        self.log(name, accuracy, prog_bar=True, batch_size=len(labels))

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Log the accuracy."""
        self._evaluate(batch, "validation_accuracy")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Log the accuracy."""
        self._evaluate(batch, "test_accuracy")

    def predict_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Return the digits."""
        digits: Tensor = self.net(batch[0]).argmax(1)
        return digits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Use Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def train_digits(*, epochs: int, logdir: Path) -> Outcome:
    """Train, validate, test and predict; the run is logged below ``logdir``."""
    pl.seed_everything(_SEED, verbose=False)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    digits = TensorDataset(images, torch.tensor(labels))
    training, validation, test = random_split(digits, (0.7, 0.15, 0.15), torch.Generator().manual_seed(_SEED))
    energy = EnergyCallback(verbose=False)  # the command prints the headline at the end
    trainer = pl.Trainer(
        max_epochs=epochs,
        logger=TensorBoardLogger(logdir, name="demo"),
        callbacks=[energy],
        log_every_n_steps=5,
        enable_model_summary=False,
    )
    model = DigitsNet()
    with warnings.catch_warnings():
        # Workers would take longer to start than these images take to load.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.fit(model, DataLoader(training, _BATCH_SIZE, shuffle=True), DataLoader(validation, _BATCH_SIZE))
        (scores,) = trainer.test(model, DataLoader(test, _BATCH_SIZE), verbose=False)
        trainer.predict(model, DataLoader(digits, _BATCH_SIZE), return_predictions=False)
    return Outcome(scores["test_accuracy"], energy.record, energy.record_path)
