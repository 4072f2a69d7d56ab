"""Time of a batch's two hooks in a real fit and a real predict of Keras, and of a whole predict, as JSON.

A process has one backend: `KERAS_BACKEND=jax python benchmarks/overhead_keras.py`. `overhead.py` runs this for each backend.
"""

import json
import sys

import keras
import numpy as np
from hooks import BATCHES, above_empty, calls_above_empty, timed

from ml_energy_callbacks.keras import EnergyCallback

BATCH_SIZE = 4


class Empty(keras.callbacks.Callback):
    """Overrides the hooks and does nothing; Keras calls it like ours, in the thread of the loop."""

    def on_train_batch_begin(self, batch, logs=None):
        """Do nothing."""

    def on_train_batch_end(self, batch, logs=None):
        """Do nothing."""

    def on_predict_batch_begin(self, batch, logs=None):
        """Do nothing."""

    def on_predict_batch_end(self, batch, logs=None):
        """Do nothing."""


def main() -> None:
    """Measure, and print the results."""
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    inputs, targets = np.ones((BATCHES * BATCH_SIZE, 4), "float32"), np.ones((BATCHES * BATCH_SIZE, 1), "float32")

    def fit(callback):
        times = timed(callback, "on_train_batch_begin", "on_train_batch_end")
        model.fit(inputs, targets, BATCH_SIZE, verbose=0, callbacks=[callback])
        return times

    def predict(callback):
        times = timed(callback, "on_predict_batch_begin", "on_predict_batch_end")
        model.predict(inputs, BATCH_SIZE, verbose=0, callbacks=[callback])
        return times

    def call(callback):
        model.predict(inputs[: 4 * BATCH_SIZE], BATCH_SIZE, verbose=0, callbacks=[callback])

    def ours():
        return EnergyCallback(verbose=False)

    backend = keras.backend.backend()
    found = {
        "versions": [f"keras {keras.version()}", f"{backend} {sys.modules[backend].__version__}"],
        "fit": above_empty(fit, Empty, ours),
        "predict": above_empty(predict, Empty, ours),
        "call": calls_above_empty(call, Empty(), ours()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
