"""A small convolutional network on scikit-learn's handwritten digits, with Keras 3 on the backend that KERAS_BACKEND names."""

import math
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else TensorFlow prints many messages at start

import keras
import numpy as np
from sklearn.datasets import load_digits

from ml_energy_callbacks.demo.outcome import Outcome
from ml_energy_callbacks.keras import EnergyCallback

_BATCH_SIZE = 64
_SEED = 0


def digits_net() -> keras.Model:
    """Return a compiled model that classifies the digit in an image of shape (8, 8, 1)."""
    net = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.25),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.Adam(2e-3), loss, metrics=["acc"])
    return net


class Batches(keras.utils.PyDataset):
    """Images and their labels, batch by batch."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Store images of shape (n, 8, 8, 1) and labels of shape (n,)."""
        super().__init__()
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self._images) / _BATCH_SIZE)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a batch."""
        part = slice(index * _BATCH_SIZE, (index + 1) * _BATCH_SIZE)
        return self._images[part], self._labels[part]


def train_digits(*, epochs: int, logdir: Path) -> Outcome:
    """Train, validate, test and predict; the run is logged below ``logdir``."""
    keras.utils.set_random_seed(_SEED)
    pixels, labels = load_digits(return_X_y=True)
    images = pixels.astype("float32").reshape(-1, 8, 8, 1) / 16
    order = np.random.default_rng(_SEED).permutation(len(images))
    parts = np.split(order, [math.ceil(0.7 * len(order)), math.ceil(0.85 * len(order))])
    # The command prints the headline at the end.
    energy = EnergyCallback(verbose=False, output_dir=_next_folder(logdir / "demo"))
    training, validation, test, digits = (energy.watch(Batches(images[part], labels[part])) for part in (*parts, order))
    net = digits_net()
    # An epoch is too short for a progress bar.
    net.fit(training, epochs=epochs, verbose=2, validation_data=validation, callbacks=[energy])
    scores = net.evaluate(test, verbose=2, callbacks=[energy], return_dict=True)
    net.predict(digits, verbose=2, callbacks=[energy])
    return Outcome(scores["acc"], energy.record, energy.record_path)


def _next_folder(parent: Path) -> Path:
    """Return the next unused folder ``keras_<n>``, numbered like those of Lightning."""
    numbers = [path.name.removeprefix("keras_") for path in parent.glob("keras_*")]
    last = max((int(number) for number in numbers if number.isdecimal()), default=-1)
    return parent / f"keras_{last + 1}"
