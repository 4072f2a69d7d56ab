"""What the examples share: scikit-learn's digits, networks that classify them, and their training."""

import logging
import warnings
from itertools import pairwise

import pytorch_lightning as pl
import torch
from lightning_utilities.core import rank_zero
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ml_energy_callbacks.lightning import EnergyCallback

PIXELS, CLASSES = 64, 10
BATCH_SIZE = 64

# Networks this small do not benefit from more threads, and one thread makes results more repeatable.
torch.set_num_threads(1)
# Lightning's messages about workers, validation and hardware are not relevant here.
warnings.filterwarnings("ignore", module="pytorch_lightning")
rank_zero.log.setLevel(logging.WARNING)


def load():
    """Return the training and the test set: images of shape (64,) with values from 0 to 1, and their digits."""
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=0.2, random_state=0, stratify=labels)
    images, test_images, labels, test_labels = (torch.tensor(part) for part in parts)
    return TensorDataset(images.float(), labels), TensorDataset(test_images.float(), test_labels)


def mlp(*widths):
    """Return a network of linear layers of these widths, from the pixels to the digits, with ReLU in between."""
    layers = [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def accuracy(outputs, labels):
    """Return the fraction of digits that were classified correctly."""
    return (outputs.argmax(1) == labels).float().mean().item()


def train(net, data, epochs, loss=None):
    """Train in a plain loop; ``loss`` is a function of the logits, the images and the labels."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for images, labels in DataLoader(data, BATCH_SIZE, shuffle=True):
            logits = net(images)
            found = nn.functional.cross_entropy(logits, labels) if loss is None else loss(logits, images, labels)
            optimizer.zero_grad()
            found.backward()
            optimizer.step()
    return net


class Classifier(pl.LightningModule):
    """A network that Lightning trains."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch, batch_idx):
        """Return the loss."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch, batch_idx):
        """Log the accuracy."""
        images, labels = batch
        self.log("validation_accuracy", accuracy(self.net(images), labels), batch_size=len(labels))

    def test_step(self, batch, batch_idx):
        """Log the accuracy."""
        images, labels = batch
        self.log("test_accuracy", accuracy(self.net(images), labels), batch_size=len(labels))

    def predict_step(self, batch, batch_idx):
        """Return the logits."""
        return self.net(batch[0])

    def configure_optimizers(self):
        """Use Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def quiet_trainer(epochs, name, *callbacks):
    """Return a trainer with an EnergyCallback that writes its record below ``energy_logs``, and that callback."""
    energy = EnergyCallback(verbose=False, output_dir=f"energy_logs/levers/{name}")
    trainer = pl.Trainer(
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[energy, *callbacks],
    )
    return trainer, energy
