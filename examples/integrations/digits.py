"""The model of the examples in this folder: a small network on scikit-learn's handwritten digits."""

import warnings

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

warnings.filterwarnings("ignore", ".*does not have many workers.*")


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return images of 64 pixels with their digits: to train and to validate."""
    pixels, labels = load_digits(return_X_y=True)
    everything = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels))
    return random_split(everything, (0.8, 0.2), torch.Generator().manual_seed(0))


def network(hidden: int = 32) -> nn.Module:
    """Return a network with one hidden layer."""
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


class Digits(pl.LightningModule):
    """Classify digits."""

    def __init__(self, hidden: int = 32, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net, self.lr = network(hidden), lr
        self.train_data, self.val_data = digits()

    def training_step(self, batch, batch_idx):
        """Return the loss."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch, batch_idx):
        """Log the loss and the accuracy."""
        images, labels = batch
        scores = self.net(images)
        self.log("val_loss", nn.functional.cross_entropy(scores, labels))
        self.log("val_accuracy", (scores.argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        """Use Adam."""
        return torch.optim.Adam(self.parameters(), self.lr)

    def train_dataloader(self):
        """Shuffle."""
        return DataLoader(self.train_data, 64, shuffle=True)

    def val_dataloader(self):
        """Validate on a fifth of the images."""
        return DataLoader(self.val_data, 64)
