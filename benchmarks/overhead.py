"""Overhead of the measurement: time of a batch's two hooks in a real fit, of a short call, memory of a million batches, import.

Run it in an environment with the extra `lightning`, and with Keras and those of its backends that are to be measured:
`python benchmarks/overhead.py`.
"""

import importlib.util
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hooks import BATCHES, ROUNDS, Methods, above_empty, calls_above_empty, timed
from rich.console import Console
from rich.table import Table
from side_by_side.loop_lightning import OFF, Empty, Tiny, fit
from torch.utils.data import DataLoader, TensorDataset

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.lightning import EnergyCallback

BACKENDS = ("tensorflow", "jax", "torch")
MILLION = 1_000_000
SEAMS = ("batch_to_device", "training_step", "backward", "optimizer_step")
"""The methods of Lightning's strategy by which the parts of a batch are marked."""


def lightning_hooks() -> list[float]:
    """Return the time of the hooks in excess of empty ones in a fit of Lightning, in µs."""
    for name in ("pytorch_lightning", "lightning.pytorch"):  # the two share the logger of the one imported last
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    return above_empty(partial(fit, batches=BATCHES), Empty, partial(EnergyCallback, verbose=False))


class EmptyAround(Empty):
    """Calls the strategy's methods by functions that do nothing else."""

    def on_train_start(self, trainer, pl_module):
        """Put them there."""
        Methods(SEAMS).wrap(trainer.strategy)


class Timer(pl.Callback):
    """Times the methods of the strategy as they are when a fit begins."""

    def __init__(self, methods, sign, times=None):
        self.methods, self.sign, self.times = methods, sign, times

    def on_train_start(self, trainer, pl_module):
        """Begin."""
        self.methods.time(self.sign, trainer.strategy)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Add the time of a batch to that of its hooks."""
        if self.times is not None:
            self.times[-1] += self.methods.spent
            self.methods.spent = 0


def lightning_parts() -> list[float]:
    """Return the time of the hooks and of the marks of parts in excess of empty ones in a fit of Lightning, in µs."""

    def run(callback):
        methods = Methods(SEAMS)
        times = timed(callback, "on_train_batch_start", "on_train_batch_end")
        data = DataLoader(TensorDataset(torch.randn(BATCHES * 4, 4)), batch_size=4)
        with tempfile.TemporaryDirectory() as folder:
            callbacks = [Timer(methods, -1), callback, Timer(methods, 1, times)]
            pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, default_root_dir=folder, **OFF).fit(Tiny(), data)
        return times

    return above_empty(run, EmptyAround, partial(EnergyCallback, verbose=False, parts=True))


class Validated(Tiny):
    """A minimal model that can be validated."""

    def validation_step(self, batch, batch_idx):
        """Compute the loss."""
        self.layer(batch[0]).mean()


def lightning_calls() -> list[float]:
    """Return the time of a short validation of Lightning in excess of one with an empty callback, in ms."""
    model, data = Validated(), DataLoader(TensorDataset(torch.randn(16, 4)), batch_size=4)

    def call(callback):
        trainers[callback].validate(model, data, verbose=False)

    with tempfile.TemporaryDirectory() as folder:
        empty, ours = Empty(), EnergyCallback(verbose=False)
        trainers = {
            callback: pl.Trainer(accelerator="cpu", callbacks=[callback], default_root_dir=folder, **OFF)
            for callback in (empty, ours)
        }
        return calls_above_empty(call, empty, ours)


def keras_hooks(backend) -> dict[str, Any]:
    """Return the results of `overhead_keras.py`, run in a separate process because a process has one backend."""
    settings = {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    script = Path(__file__).with_name("overhead_keras.py")
    run = subprocess.run([sys.executable, script], env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout)


def million_batches() -> tuple[float, float]:
    """Return the memory growth in MB over a million batches, and the time of one batch in µs."""
    with EnergyMeter(verbose=False) as meter, meter.stage("train"):
        for _ in range(10_000):
            meter.batch_start()
            meter.batch_end(4)
        begun = time.perf_counter()
        for _ in range(MILLION // 10):
            meter.batch_start()
            meter.batch_end(4)
        each = (time.perf_counter() - begun) / (MILLION // 10) * 1e6
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(MILLION):
            meter.batch_start()
            meter.batch_end(4)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return (after - before) / 1e6, each


def import_ms() -> float:
    """Return the median time of `import ml_energy_callbacks` in ms, in fresh interpreters."""
    code = "import time; t = time.perf_counter(); import ml_energy_callbacks; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(ROUNDS)]
    return statistics.median(float(run.stdout) for run in runs) * 1000


def main() -> None:
    """Measure, and print a table."""
    table = Table("what", "median", "range", "target")

    def add_hooks(where, above, target="3 µs"):
        row = f"{statistics.median(above):.2f} µs", f"{min(above):.2f} to {max(above):.2f}"
        table.add_row(f"hooks, {where}", *row, target)

    def add_calls(what, above):
        row = f"{statistics.median(above):.1f} ms", f"{min(above):.1f} to {max(above):.1f}"
        table.add_row(f"a short call, {what}", *row, "50 ms")

    add_hooks("fit of Lightning", lightning_hooks())
    add_hooks("fit of Lightning, with parts", lightning_parts(), "6 µs")
    add_calls("validate of Lightning", lightning_calls())
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning"))]
    for backend in BACKENDS:
        if not (importlib.util.find_spec("keras") and importlib.util.find_spec(backend)):
            table.add_row(f"hooks, Keras on {backend}", "skipped", "not installed", "3 µs")
            continue
        found = keras_hooks(backend)
        add_hooks(f"fit of Keras on {backend}", found["fit"])
        if found["parts"]:
            add_hooks(f"fit of Keras on {backend}, with parts", found["parts"], "6 µs")
        add_hooks(f"predict of Keras on {backend}", found["predict"])
        add_calls(f"predict of Keras on {backend}", found["call"])
        versions += found["versions"]
    grown, each = million_batches()
    table.add_row("a batch of EnergyMeter in a bare loop", f"{each:.2f} µs", "", "")
    table.add_row("memory growth over 1,000,000 batches", f"{grown:.3f} MB", "", "2 MB")
    table.add_row("import ml_energy_callbacks", f"{import_ms():.1f} ms", "", "30 ms")
    console = Console()
    console.print(table)
    console.print("Hooks: time of the two hooks of a batch, in excess of an empty callback, in a real fit or predict.")
    console.print("With parts: the same with the marks of the parts, in excess of functions that call the same methods.")
    console.print("A short call: time of four batches, in excess of an empty callback's, with devices that are open already.")
    console.print(f"{', '.join(dict.fromkeys(versions))}; {ROUNDS} interleaved rounds of {BATCHES} batches.")


if __name__ == "__main__":
    main()
