"""Lightning and Keras: the same network trained on the same batches in each; KERAS_BACKEND selects the backend of Keras.

They train several times in turn. The median and the range are reported: if the ranges overlap, there is no difference.
"""

import os
from statistics import median

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import pytorch_lightning as pl
import torch
from digits import BATCH_SIZE, CLASSES, PIXELS, Classifier, load, mlp, quiet_trainer
from findings import Findings, main
from torch.utils.data import DataLoader, TensorDataset

from ml_energy_callbacks.keras import EnergyCallback

WIDTHS = (512, 512)


def by_lightning(data, test, many, epochs):
    """Train, test and predict; return the accuracy and the record."""
    trainer, energy = quiet_trainer(epochs, "lightning_and_keras/lightning")
    model = Classifier(mlp(PIXELS, *WIDTHS, CLASSES))
    trainer.fit(model, data)
    (scores,) = trainer.test(model, test, verbose=False)
    trainer.predict(model, many, return_predictions=False)
    return scores["test_accuracy"], energy.record


def by_keras(data, test, many, epochs):
    """Train, test and predict; return the accuracy and the record."""
    energy = EnergyCallback(verbose=False, output_dir="energy_logs/levers/lightning_and_keras/keras")
    hidden = [keras.layers.Dense(width, activation="relu") for width in WIDTHS]
    model = keras.Sequential([keras.layers.Input((PIXELS,)), *hidden, keras.layers.Dense(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    model.fit(data, epochs=epochs, shuffle=False, callbacks=[energy], verbose=0)  # the loader shuffles
    scores = model.evaluate(test, return_dict=True, verbose=0)
    model.predict(many, callbacks=[energy], verbose=0)
    return scores["accuracy"], energy.record


def row(name, runs):
    """Return the table row of several runs."""
    joules = [record.stages["train"].joules for _, record in runs]
    each = [record.stages["predict"].joules_per_sample for _, record in runs]
    known = None not in joules and None not in each
    return {
        "name": name,
        "accuracy": median(right for right, _ in runs),
        "joules": median(joules) if known else None,
        "joules_range": [min(joules), max(joules)] if known else [],
        "joules_per_sample": median(each) if known else None,
        "joules_per_sample_range": [min(each), max(each)] if known else [],
    }


def compared(what, key, first, second):
    """Return the difference between the second and the first, in a sentence."""
    if first[key] is None or second[key] is None:
        return f"{what}: unknown."
    (low, high), (other_low, other_high) = first[f"{key}_range"], second[f"{key}_range"]
    if other_low <= high and low <= other_high:
        return f"{what}: no difference, the ranges overlap."
    return f"{what}: {second['name']} used {second[key] / first[key]:.2g} times the energy of {first['name']}."


def find(*, quick):
    """Train with both in turn."""
    training, testing = load()
    images, labels = testing.tensors
    times = 4 if quick else 60
    many = DataLoader(TensorDataset(images.repeat(times, 1), labels.repeat(times)), BATCH_SIZE)
    data, test = DataLoader(training, BATCH_SIZE, shuffle=True), DataLoader(testing, BATCH_SIZE)
    ways = {"Lightning": by_lightning, f"Keras on {keras.backend.backend()}": by_keras}
    runs = {name: [] for name in ways}
    for seed in range(1 if quick else 3):
        for name, way in ways.items():
            pl.seed_everything(seed, verbose=False)
            keras.utils.set_random_seed(seed)
            with torch.random.fork_rng():
                runs[name].append(way(data, test, many, epochs=2 if quick else 15))
    rows = [row(name, found) for name, found in runs.items()]
    total = runs["Lightning"][0][1].total
    said = [compared("Training", "joules", *rows), compared("Prediction", "joules_per_sample", *rows)]
    return Findings(rows, total.provenance, total.relative_uncertainty, said)


if __name__ == "__main__":
    main(find, __doc__)
