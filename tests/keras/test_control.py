"""What is Keras's own about forecasts and early stopping: validations now and then."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from frameworks.keras_loops import on_one_backend
from loads import PulseCounter, Pulses

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.keras import EnergyCallback, EnergyEarlyStopping
from ml_energy_callbacks.testing import ScriptedBackend

WATTS = 360.0
BATCH_S = 0.02


class Pace(keras.callbacks.Callback):
    """Draw power for each batch of training, and more for one of validation, and let it be known before an epoch ends.

    It stands before the callback that measures: what an epoch took then is exact, however busy the machine is.
    """

    def __init__(self, pulses: Pulses, counter: PulseCounter) -> None:
        super().__init__()
        self.pulses, self.counter = pulses, counter

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.pulses.work(BATCH_S)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.pulses.work(3 * BATCH_S)

    def on_test_begin(self, logs: Any = None) -> None:
        self.counter.wait_for_a_reading()

    def on_test_end(self, logs: Any = None) -> None:
        self.counter.wait_for_a_reading()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.counter.wait_for_a_reading()


def fit(folder: Path, *, epochs: tuple[tuple[int, int], ...], freq: int, stopping: Sequence[Any] = ()) -> RunRecord:
    x, y = np.zeros((40, 8), "float32"), np.zeros((40, 1), "float32")
    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    pulses = Pulses(WATTS)
    counter = PulseCounter(pulses)
    energy = EnergyCallback(verbose=False, backends=[ScriptedBackend([counter])], output_dir=folder)
    for begin, end in epochs:
        model.fit(
            x,
            y,
            batch_size=4,
            initial_epoch=begin,
            epochs=end,
            validation_data=(x[:20], y[:20]),
            validation_batch_size=4,
            validation_freq=freq,
            callbacks=[Pace(pulses, counter), energy, *stopping],
            verbose=0,
        )
    return energy.record


@on_one_backend
def test_a_training_that_goes_on_expects_the_validations_that_are_to_come(tmp_path: Path) -> None:
    forecast = fit(tmp_path, epochs=((0, 4), (4, 10)), freq=2).forecast  # the first fit warms up
    assert forecast is not None
    assert forecast.after_epochs == 2  # the first has no validation
    assert forecast.error == pytest.approx(0, abs=0.1)


@on_one_backend
def test_a_metric_that_comes_with_a_validation_now_and_then_is_not_missed(tmp_path: Path) -> None:
    stopping = [EnergyEarlyStopping("val_loss", min_gain_per_kwh=1e12)]
    record = fit(tmp_path, epochs=((0, 9),), freq=2, stopping=stopping)
    assert record.stages["train"].batches == 40
    assert record.run.reason is not None
    assert record.run.reason.startswith("val_loss gained less than 1e+12 per kWh since its best")
    assert not any("finds no metric" in warning for warning in record.warnings)
    missed = fit(tmp_path, epochs=((0, 3),), freq=2, stopping=[EnergyEarlyStopping("val_accuracy", min_gain_per_kwh=1)])
    assert any("finds no metric 'val_accuracy'" in warning for warning in missed.warnings)
