"""Data caching: training that prepares each image again in every epoch, compared with training that caches prepared images."""

import pytorch_lightning as pl
import torch
from digits import BATCH_SIZE, CLASSES, Classifier, load, quiet_trainer
from findings import Findings, interval, main, of_stage, times
from scipy import ndimage
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ml_energy_callbacks.report import quantity

SIDE, ENLARGED = 8, 4


class Prepared(Dataset):
    """Images that are enlarged to 32 by 32 pixels, smoothed, and median-filtered, one by one."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        """Return the number of images."""
        return len(self.data)

    def __getitem__(self, index):
        """Return an image of shape (1, 32, 32) and its digit."""
        image, label = self.data[index]
        large = ndimage.gaussian_filter(ndimage.zoom(image.view(SIDE, SIDE).numpy(), ENLARGED), 1)
        return torch.tensor(ndimage.median_filter(large, 7)[None]), label


class Cached(Dataset):
    """Samples that are kept in memory after their first use."""

    def __init__(self, data):
        self.data = data
        self.kept = {}

    def __len__(self):
        """Return the number of samples."""
        return len(self.data)

    def __getitem__(self, index):
        """Return a sample."""
        if index not in self.kept:
            self.kept[index] = self.data[index]
        return self.kept[index]


def network():
    """Return a small convolutional network for images of shape (1, 32, 32)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 6 * 6, CLASSES),
    )


def trained(name, data, test, epochs):
    """Train on the data; return the table row and the record."""
    pl.seed_everything(0, verbose=False)
    trainer, energy = quiet_trainer(epochs, f"data_caching/{name}")
    model = Classifier(network())
    trainer.fit(model, DataLoader(data, BATCH_SIZE, shuffle=True))
    (scores,) = trainer.test(model, DataLoader(Prepared(test), BATCH_SIZE), verbose=False)
    stage = energy.record.stages["train"]
    wait = stage.phases["data_wait"]
    row = {
        "name": name,
        "accuracy": scores["test_accuracy"],
        **of_stage(stage),
        "data_wait_joules": wait.joules,
        "data_wait_half_width": wait.relative_uncertainty,
    }
    return row, energy.record


def find(*, quick):
    """Train without and with the cache."""
    data, test = load()
    epochs = 2 if quick else 10
    slow, record = trained("prepared each time", Prepared(data), test, epochs)
    fast, _ = trained("cached", Cached(Prepared(data)), test, epochs)
    total = record.total
    said = [f"Without the cache, training used {times(slow['joules'], fast['joules'])} the energy."]
    if slow["data_wait_joules"] is None:
        said.append(f"The energy used while waiting for data is unknown: {record.stages['train'].phases['data_wait'].reason}")
    elif fast["data_wait_joules"] is not None:
        before, after = (
            f"{quantity(row['data_wait_joules'], 'J')} ({interval(row['data_wait_half_width'])})" for row in (slow, fast)
        )
        said.append(
            f"Waiting for data: {before} without the cache, {after} with it; the first epoch still prepares every image."
        )
    return Findings([slow, fast], total.provenance, total.relative_uncertainty, said)


if __name__ == "__main__":
    main(find, __doc__)
