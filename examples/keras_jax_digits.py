"""Energy of a Keras run on JAX: add one callback.

Trains a small network on scikit-learn's handwritten digits, stops when an epoch no longer lowers the loss, writes a table with
the energy of each epoch, and prints the energy of training and of prediction, and how long compilation took.
"""

import csv
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import keras
from sklearn.datasets import load_digits

from ml_energy_callbacks.keras import EnergyCallback


def main() -> None:
    """Train, predict, and print the energy."""
    folder = Path("energy_logs/keras_jax_digits")
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = load_digits(return_X_y=True)
    images = pixels / 16

    model = keras.Sequential([keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    energy = EnergyCallback(location="FRA", electricity_price=0.25, currency="EUR", output_dir=folder)
    # Callbacks that come after it receive the energy of an epoch, and can monitor it.
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1)
    table = keras.callbacks.CSVLogger(folder / "epochs.csv")
    callbacks = [energy, stopping, table]
    model.fit(images, labels, validation_split=0.2, epochs=20, callbacks=callbacks, verbose=2)
    model.predict(images, callbacks=[energy], verbose=2)

    with (folder / "epochs.csv").open() as file:
        for row in csv.DictReader(file):
            joules = float(row["energy/train/joules_per_sample"])
            print(f"epoch {row['epoch']}: val_loss {float(row['val_loss']):.3f}, {joules:.3g} J/sample")
    record = energy.record
    for name in ("train", "predict"):
        stage = record.stages[name]
        each = f"{stage.joules_per_sample:.3g} J per sample without compilation"
        print(f"{name}: {stage.joules:.3g} J, {each} ({stage.provenance})")
    train = record.stages["train"]
    print(f"of the {train.seconds:.1f} s of training, compilation took {train.phases['compile'].seconds:.1f} s")
    print(f"record: {energy.record_path}")


if __name__ == "__main__":
    main()
