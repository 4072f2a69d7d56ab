"""What is Keras's own about forecasts: validations now and then."""

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.keras import EnergyCallback
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter

WATTS = 360.0
BATCH_S = 0.02


class Pace(keras.callbacks.Callback):
    """Take some time for each batch of training, and more for one of validation."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        time.sleep(BATCH_S)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        time.sleep(3 * BATCH_S)


def test_a_training_that_goes_on_expects_the_validations_that_are_to_come(tmp_path: Path) -> None:
    x, y = np.zeros((40, 8), "float32"), np.zeros((40, 1), "float32")
    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    counter = ScriptedCounter(PowerCurve(monotonic_clock, WATTS), monotonic_clock, period_s=0.02)
    energy = EnergyCallback(verbose=False, backends=[ScriptedBackend([counter])], output_dir=tmp_path)
    for begin, end in ((0, 4), (4, 10)):  # the first fit warms up
        model.fit(
            x,
            y,
            batch_size=4,
            initial_epoch=begin,
            epochs=end,
            validation_data=(x[:20], y[:20]),
            validation_batch_size=4,
            validation_freq=2,
            callbacks=[energy, Pace()],
            verbose=0,
        )
    forecast = energy.record.forecast
    assert forecast is not None
    assert forecast.after_epochs == 2  # the first has no validation
    assert forecast.error == pytest.approx(0, abs=0.1)
