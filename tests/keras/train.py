"""A training script for the tests to start, stop and resume."""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any

import keras
from frameworks.keras_loops import arrays, net

from ml_energy_callbacks.keras import EnergyCallback


class Pace(keras.callbacks.Callback):
    """Take some time for each batch, and say how far it is."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        time.sleep(0.02)
        print(f"batch {batch}", flush=True)  # noqa: T201


def main() -> None:
    """Fit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--handle", action="store_true")
    parser.add_argument("--backup", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored below a nohup
    if options.handle:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    energy = EnergyCallback(devices=["cpu-model:0", "memory-model:0"], verbose=False, output_dir=options.folder)
    backup = [keras.callbacks.BackupAndRestore(str(options.folder / "backup"))] if options.backup else []
    x, y = arrays(200)
    net().fit(x, y, batch_size=4, epochs=options.epochs, callbacks=[energy, Pace(), *backup], verbose=0)


if __name__ == "__main__":
    main()
