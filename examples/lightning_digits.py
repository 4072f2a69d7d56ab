"""Energy of a PyTorch Lightning run: add one callback.

Trains a small network on scikit-learn's handwritten digits, stops when an epoch no longer lowers the loss, and prints the
energy of training and of prediction.
"""

import warnings

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from ml_energy_callbacks.lightning import EnergyCallback

warnings.filterwarnings("ignore", ".*does not have many workers.*")


class Classifier(pl.LightningModule):
    """Classify the digit in an image of 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, batch_idx):
        """Return the loss."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch, batch_idx):
        """Log the loss."""
        images, labels = batch
        self.log("validation_loss", nn.functional.cross_entropy(self.net(images), labels))

    def predict_step(self, batch, batch_idx):
        """Return the digits."""
        return self.net(batch[0]).argmax(1)

    def configure_optimizers(self):
        """Use Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main() -> None:
    """Train, predict, and print the energy."""
    pixels, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels))
    training, validation = random_split(digits, (0.8, 0.2))

    energy = EnergyCallback(location="FRA", electricity_price=0.25, currency="EUR")
    stopping = pl.callbacks.EarlyStopping("validation_loss", patience=1)
    trainer = pl.Trainer(max_epochs=20, callbacks=[energy, stopping], logger=CSVLogger("energy_logs"), log_every_n_steps=5)
    model = Classifier()
    trainer.fit(model, DataLoader(training, 32, shuffle=True), DataLoader(validation, 32))
    trainer.predict(model, DataLoader(digits, 32))

    record = energy.record
    for name in ("train", "predict"):
        stage = record.stages[name]
        print(f"{name}: {stage.joules:.3g} J, {stage.joules_per_sample:.3g} J per sample ({stage.provenance})")
    print(f"record: {energy.record_path}")


if __name__ == "__main__":
    main()
