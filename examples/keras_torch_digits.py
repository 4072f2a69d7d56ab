"""Energy of a Keras run on torch: add one callback.

Trains a small network on scikit-learn's handwritten digits from a DataLoader, and prints the energy of training and of
prediction.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

from ml_energy_callbacks.keras import EnergyCallback


def main() -> None:
    """Train, predict, and print the energy."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32) / 16
    training, validation = random_split(TensorDataset(images, torch.tensor(labels)), (0.8, 0.2))

    model = keras.Sequential([keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    energy = EnergyCallback(location="FRA", electricity_price=0.25, currency="EUR", output_dir="energy_logs/keras_torch_digits")
    model.fit(
        DataLoader(training, 32, shuffle=True),
        validation_data=DataLoader(validation, 32),
        epochs=10,
        callbacks=[energy],
        verbose=2,
    )
    model.predict(DataLoader(TensorDataset(images), 32), callbacks=[energy], verbose=2)

    record = energy.record
    for name in ("train", "predict"):
        stage = record.stages[name]
        print(f"{name}: {stage.joules:.3g} J, {stage.joules_per_sample:.3g} J per sample ({stage.provenance})")
    print(f"record: {energy.record_path}")


if __name__ == "__main__":
    main()
