"""A training script for the tests to start, stop and resume."""

import argparse
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_models import loader, module, trainer

from ml_energy_callbacks.lightning import EnergyBudget, EnergyCallback


class Pace(pl.Callback):
    """Take some time for each batch, and say how far it is."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *args: Any) -> None:
        time.sleep(self.seconds)

    def on_train_batch_end(self, *args: Any) -> None:
        print(f"batch {args[-1]}", flush=True)  # noqa: T201


def main() -> None:
    """Fit, and test if asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--resume")
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--budget", type=float)
    parser.add_argument("--log-every", type=int, default=2)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where whoever started the tests ignores it
    keeping = pl.callbacks.ModelCheckpoint(options.folder, save_last=True)
    energy = EnergyCallback(devices=["cpu-model:0", "memory-model:0"], verbose=False)
    parallel = {"strategy": "ddp"} if options.devices > 1 else {}
    budget = [] if options.budget is None else [EnergyBudget(kwh=options.budget)]
    t = trainer(
        options.folder,
        [energy, Pace(options.pause), keeping, *budget],
        log_every_n_steps=options.log_every,
        max_epochs=options.epochs,
        enable_checkpointing=True,
        devices=options.devices,
        **parallel,
    )
    m, data = module(), loader(200, 4)
    t.fit(m, data, ckpt_path=options.resume)
    if options.test:
        t.test(m, data, ckpt_path=str(options.folder / "last.ckpt"))


if __name__ == "__main__":
    main()
