"""A fit of Keras on TensorFlow, whose batch hooks are timed."""

from functools import cache

import keras
import numpy as np
from hooks import timed
from overhead_keras import Empty

from ml_energy_callbacks.keras import EnergyCallback

from .marks import Marks, hook_times


class Marking(keras.callbacks.Callback):
    """Marks the batches for a tool."""

    def __init__(self, marks: Marks):
        super().__init__()
        self.begin, self.end = marks.begin, marks.end

    def on_train_batch_begin(self, batch, logs=None):
        """Mark the start."""
        self.begin()

    def on_train_batch_end(self, batch, logs=None):
        """Mark the end."""
        self.end()


@cache
def model() -> keras.Model:
    """Return a minimal model, compiled and traced."""
    tiny = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    tiny.compile("sgd", "mse", jit_compile=False)
    tiny.fit(np.ones((8, 4), "float32"), np.ones((8, 1), "float32"), 4, verbose=0)
    return tiny


def fit(callback, batches) -> list[int]:
    """Return the time of the hooks of each batch in ns."""
    times = timed(callback, "on_train_batch_begin", "on_train_batch_end")
    inputs, targets = np.ones((batches * 4, 4), "float32"), np.ones((batches * 4, 1), "float32")
    model().fit(inputs, targets, 4, verbose=0, callbacks=[callback])
    return times


def run(kind, batches) -> list[int]:
    """Return the time of a tool's hooks of each batch in ns; ours are those of the callback."""
    return hook_times(kind, batches, fit, Empty, EnergyCallback, Marking)
