"""A training on several devices of one process, for the tests to start, in a world with as many simulated GPUs as devices."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import keras
from frameworks.keras_loops import arrays

from ml_energy_callbacks.keras import EnergyCallback, placement
from ml_energy_callbacks.testing.nvml import SimulatedDriver

DEVICES = 4
IDLE_WATTS = 0.1  # a counter that stands still is not trusted
REFRESHED_S = 0.3
"""By then the counters have refreshed: what is read at the edges of the run is idle power, of which little can be missed."""


class Power(keras.callbacks.Callback):
    """Lets each GPU draw another power from the begin of a training to its end, and next to none around it.

    It stands after the callback that measures, which it lets begin; ``end`` stands before that one.

    Attributes:
        joules: The true energy of each GPU from its begin to its end.
    """

    def __init__(self, driver: SimulatedDriver) -> None:
        super().__init__()
        self.driver = driver
        self.joules = [0.0] * DEVICES
        self.end = keras.callbacks.LambdaCallback(on_train_end=self.finish)

    def look(self) -> None:
        """Note the energy since the last look."""
        self.joules = [self.driver.true_joules(gpu) - then for gpu, then in enumerate(self.joules)]

    def on_train_begin(self, logs: Any = None) -> None:
        self.look()
        time.sleep(REFRESHED_S)
        for gpu in range(DEVICES):
            self.driver.set_power(100.0 * (gpu + 1), gpu)

    def finish(self, _: Any) -> None:
        """Draw next to none again."""
        for gpu in range(DEVICES):
            self.driver.set_power(IDLE_WATTS, gpu)
        time.sleep(REFRESHED_S)
        self.look()


def mirrored(used: list[int]) -> Any:
    """Return the scope of a MirroredStrategy."""
    import tensorflow as tf  # noqa: PLC0415 - of this backend alone

    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * DEVICES)
    # Its other ways to sum break Keras's steps_per_execution on processors.
    summing = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"CPU:{device}" for device in used], cross_device_ops=summing).scope()


def parallel(used: list[int], *, model: bool) -> Any:
    """Return the scope of a keras.distribution, of the data alone, or of the model as well."""
    import jax  # noqa: PLC0415 - of this backend alone

    jax.config.update("jax_num_cpu_devices", DEVICES)
    names = [f"cpu:{device}" for device in used]
    if not model:
        return keras.distribution.DataParallel(devices=names).scope()
    layout = keras.distribution.LayoutMap(keras.distribution.DeviceMesh((len(used) // 2, 2), ("batch", "model"), names))
    layout["wide/kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch").scope()


def main() -> None:
    """Fit with a validation, evaluate and predict; print what was measured, and what is true."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--used", type=int, nargs="+", required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--steps-per-execution", type=int, default=1)
    parser.add_argument("--model-parallel", action="store_true")
    parser.add_argument("--watch", action="store_true")
    options = parser.parse_args()
    driver = SimulatedDriver(options.folder)
    driver.start(gpus=DEVICES, watts=IDLE_WATTS)
    energy = EnergyCallback(devices=["nvml:*"], verbose=False, location="FRA", metrics="all")
    mine = mirrored(options.used) if keras.backend.backend() == "tensorflow" else None
    with mine or parallel(options.used, model=options.model_parallel):
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(4, name="wide"), keras.layers.Dense(1)])
        model.compile("sgd", "mse", steps_per_execution=options.steps_per_execution)
        x, y = arrays(options.samples)
        data: dict[str, Any] = {"x": x, "y": y, "batch_size": 24}
        if options.watch:
            import tensorflow as tf  # noqa: PLC0415 - of this backend alone

            data = {"x": energy.watch(tf.data.Dataset.from_tensor_slices((x, y)).batch(24))}
        power = Power(driver)
        callbacks = [power.end, energy, power]
        model.fit(**data, epochs=2, validation_data=(x[:60], y[:60]), validation_batch_size=24, callbacks=callbacks, verbose=0)
        joules = [device.joules for device in energy.record.devices if device.kind == "gpu"]
        model.evaluate(x, y, batch_size=24, callbacks=[energy], verbose=0)
        model.predict(x, batch_size=24, callbacks=[energy], verbose=0)
    record = energy.record
    facts = {
        "counts": {name: [stage.batches, stage.samples] for name, stage in record.stages.items() if name != "other"},
        "phases": sorted(record.stages["train"].phases),
        "joules": joules,
        "true_joules": power.joules,
        "numbers": sorted(placement.numbers(model, "cpu")),
        "warnings": record.warnings,
    }
    print(json.dumps(facts))  # noqa: T201


if __name__ == "__main__":
    main()
