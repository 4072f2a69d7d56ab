"""Several devices in one process, with ``tf.distribute.MirroredStrategy``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the strategy is TensorFlow's")

SCRIPT = """
import json
import tensorflow as tf

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras
from frameworks.keras_loops import arrays
from ml_energy_callbacks.keras import EnergyCallback

with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
energy = EnergyCallback(verbose=False, devices=["cpu-model:0"])
x, y = arrays(90)
model.fit(x, y, batch_size=20, epochs=2, validation_data=(x[:50], y[:50]), callbacks=[energy], verbose=0)
model.predict(x, batch_size=20, callbacks=[energy], verbose=0)
watched = EnergyCallback(verbose=False)
dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
model.fit(watched.watch(dataset), epochs=2, callbacks=[watched], verbose=0)
stages = {name: (stage.batches, stage.samples) for name, stage in energy.record.stages.items()}
train = watched.record.stages["train"]
print(json.dumps([stages, [device.id for device in energy.record.devices], train.samples, sorted(train.phases)]))
"""


def test_two_replicas_count_each_sample_once() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    stages, devices, watched, phases = json.loads(done.stdout.splitlines()[-1])
    assert {name: counts for name, counts in stages.items() if name != "other"} == {
        "train": [10, 180],
        "validate": [6, 100],
        "predict": [5, 90],
    }
    assert devices == ["cpu-model:0"]
    assert watched == 180
    assert "data_wait" in phases
    assert "step" not in phases
