"""What is Keras's own about forecasts and early stopping: validations now and then."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from frameworks.keras_loops import on_one_backend

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.keras import EnergyCallback, EnergyEarlyStopping
from ml_energy_callbacks.testing import ScriptedBackend, ScriptedCounter
from ml_energy_callbacks.testing.curves import refreshed

WATTS = 360.0
IDLE_WATTS = 0.1  # a counter that stands still is not trusted
BATCH_S = 0.02
LONGEST_S = 60


class Pulses:
    """Power that is drawn for some time after an instant, however long what then happens takes; else next to none."""

    def __init__(self) -> None:
        self.made_ns = monotonic_clock()
        self.begins: list[int] = []
        self.lengths: list[int] = []

    def draw(self, seconds: float) -> None:
        """Draw it for so long from now on; what was drawn before has ended."""
        self.begins.append(monotonic_clock())
        self.lengths.append(round(seconds * NS_PER_S))

    def watts(self, time_ns: int) -> float:
        """Return the power in W at an instant."""
        pulses = zip(self.begins, self.lengths, strict=False)  # another thread adds some
        return IDLE_WATTS + WATTS * any(0 <= time_ns - begin < length for begin, length in pulses)

    def joules(self, time_ns: int) -> float:
        """Return the energy in J up to an instant."""
        pulses = zip(self.begins, self.lengths, strict=False)
        drawn = WATTS * sum(min(max(0, time_ns - begin), length) for begin, length in pulses)
        return (drawn + IDLE_WATTS * (time_ns - self.made_ns)) / NS_PER_S


class Counter(ScriptedCounter):
    """A counter that knows of which instant its last reading was."""

    read_ns = 0

    def read(self) -> float:
        """Return the joules as of the last refresh."""
        instant = refreshed(self.clock(), self.period_s)
        joules = super().read()
        self.read_ns = instant
        return joules


class Pace(keras.callbacks.Callback):
    """Draw power for each batch of training, and more for one of validation, and let it be known before an epoch ends.

    It stands before the callback that measures: what an epoch took then is exact, however busy the machine is.
    """

    def __init__(self, pulses: Pulses, counter: Counter) -> None:
        super().__init__()
        self.pulses, self.counter = pulses, counter

    def work(self, seconds: float) -> None:
        self.pulses.draw(seconds)
        time.sleep(seconds)

    def wait_for_a_reading(self) -> None:
        """Wait until the counter has been read after all that was drawn."""
        now = monotonic_clock()
        while self.counter.read_ns < now:
            assert monotonic_clock() < now + LONGEST_S * NS_PER_S
            time.sleep(0.001)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.work(BATCH_S)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.work(3 * BATCH_S)

    def on_test_begin(self, logs: Any = None) -> None:
        self.wait_for_a_reading()

    def on_test_end(self, logs: Any = None) -> None:
        self.wait_for_a_reading()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.wait_for_a_reading()


def fit(folder: Path, *, epochs: tuple[tuple[int, int], ...], freq: int, stopping: Sequence[Any] = ()) -> RunRecord:
    x, y = np.zeros((40, 8), "float32"), np.zeros((40, 1), "float32")
    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    pulses = Pulses()
    counter = Counter(pulses, monotonic_clock, period_s=0.02)
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
