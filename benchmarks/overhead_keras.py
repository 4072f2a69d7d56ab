"""Time of a batch's two hooks in a real fit and a real predict of Keras, and of a whole predict, as JSON.

A process has one backend: `KERAS_BACKEND=jax python benchmarks/overhead_keras.py`. `overhead.py` runs this for each backend.
"""

import json
import sys
from functools import partial

import keras
import numpy as np
from hooks import BATCHES, Methods, above_empty, calls_above_empty, timed

from ml_energy_callbacks.keras import EnergyCallback

BATCH_SIZE = 4


SEAMS = ("train_step", "scale_loss", "apply")
"""The methods of the model and of its optimizer by which the parts of a batch are marked."""


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


class EmptyAround(Empty):
    """Calls the methods of the model and of the optimizer by functions that do nothing else."""

    def on_train_begin(self, logs=None):
        """Put them there."""
        Methods(SEAMS).wrap(self.model, self.model.optimizer)


class Timer(keras.callbacks.Callback):
    """Times those methods as they are when a fit begins."""

    def __init__(self, methods, sign, times=None):
        super().__init__()
        self.methods, self.sign, self.times = methods, sign, times

    def on_train_begin(self, logs=None):
        """Begin."""
        self.methods.time(self.sign, self.model, self.model.optimizer)

    def on_train_batch_end(self, batch, logs=None):
        """Add the time of a batch to that of its hooks."""
        if self.times is not None:
            self.times[-1] += self.methods.spent
            self.methods.spent = 0


def main() -> None:
    """Measure, and print the results."""
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    inputs, targets = np.ones((BATCHES * BATCH_SIZE, 4), "float32"), np.ones((BATCHES * BATCH_SIZE, 1), "float32")

    def fit(callback):
        times = timed(callback, "on_train_batch_begin", "on_train_batch_end")
        model.fit(inputs, targets, BATCH_SIZE, verbose=0, callbacks=[callback])
        return times

    def parts(callback):
        methods = Methods(SEAMS)
        times = timed(callback, "on_train_batch_begin", "on_train_batch_end")
        callbacks = [Timer(methods, -1), callback, Timer(methods, 1, times)]
        model.fit(inputs, targets, BATCH_SIZE, verbose=0, callbacks=callbacks)
        for owner, name in ((owner, name) for owner in (model, model.optimizer) for name in SEAMS):
            vars(owner).pop(name, None)
        return times

    def predict(callback):
        times = timed(callback, "on_predict_batch_begin", "on_predict_batch_end")
        model.predict(inputs, BATCH_SIZE, verbose=0, callbacks=[callback])
        return times

    def call(callback):
        model.predict(inputs[: 4 * BATCH_SIZE], BATCH_SIZE, verbose=0, callbacks=[callback])

    def ours(**options):
        return EnergyCallback(verbose=False, **options)

    backend = keras.backend.backend()
    found = {
        "versions": [f"keras {keras.version()}", f"{backend} {sys.modules[backend].__version__}"],
        "fit": above_empty(fit, Empty, ours),
        "parts": above_empty(parts, EmptyAround, partial(ours, parts=True)) if backend == "torch" else [],
        "predict": above_empty(predict, Empty, ours),
        "call": calls_above_empty(call, Empty(), ours()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
