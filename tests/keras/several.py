"""One of several processes that try to train together, for the tests to start."""

import json
import os
import sys
from typing import Any

import keras
import numpy as np

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.keras import EnergyCallback


def workers(rank: int, ports: list[str]) -> Any:
    """Return a MultiWorkerMirroredStrategy once all its workers are there."""
    import tensorflow as tf  # noqa: PLC0415 - of this backend alone

    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})
    return tf.distribute.MultiWorkerMirroredStrategy().scope()


def distribution(rank: int, ports: list[str]) -> Any:
    """Return a DataParallel over the devices of all processes."""
    keras.distribution.initialize(f"localhost:{ports[0]}", len(ports), rank)
    return keras.distribution.DataParallel(auto_shard_dataset=False).scope()


def main() -> None:
    """Predict, as Keras cannot fit with every strategy; print what refuses it."""
    rank, *ports = sys.argv[1:]
    scope = workers if keras.backend.backend() == "tensorflow" else distribution
    energy = EnergyCallback(verbose=False)
    with scope(int(rank), ports):
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
        try:
            model.predict(np.ones((16, 8)), batch_size=8, callbacks=[energy], verbose=0)
        except ConfigurationError as error:
            print(error, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
