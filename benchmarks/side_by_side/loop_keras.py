"""A fit of Keras on TensorFlow, whose batch hooks are timed."""

from functools import cache

import keras
import numpy as np
from hooks import timed

from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.keras import EnergyCallback

from .marks import Marks, batches_for, marking
from .tools import Place


class Empty(keras.callbacks.Callback):
    """Overrides the two hooks and does nothing; Keras calls it as it calls ours, in the loop's own thread."""

    def on_train_batch_begin(self, batch, logs=None):
        """Do nothing."""

    def on_train_batch_end(self, batch, logs=None):
        """Do nothing."""


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
    """Return the least that can be trained, compiled and traced."""
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
    if kind == "none":
        return fit(Empty(), batches)
    if kind == "ours":
        return fit(EnergyCallback(backends=[NvmlBackend()], carbon_intensity=400, verbose=False), batches)
    with marking(kind, Place()) as marks:
        return fit(Marking(marks), batches_for(kind, batches))
