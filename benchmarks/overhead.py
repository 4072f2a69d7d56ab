"""What measuring costs: time of a batch's two hooks inside a real fit, memory of a million batches, import time.

Run it in an environment with the extra `lightning`: `python benchmarks/overhead.py`.
"""

import importlib.metadata
import logging
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, TensorDataset

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.lightning import EnergyCallback

ROUNDS = 15
BATCHES = 2000
MILLION = 1_000_000


class Empty(pl.Callback):
    """Overrides the two hooks and does nothing."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        """Do nothing."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Do nothing."""


class Tiny(pl.LightningModule):
    """The least that can be trained."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        """Return the loss."""
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        """Use plain descent."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def hooks_us(callback, folder) -> float:
    """Return the median time of a batch's two hooks in µs."""
    start, end = callback.on_train_batch_start, callback.on_train_batch_end
    times = []

    def timed_start(*args):
        begun = time.perf_counter_ns()
        start(*args)
        times.append(time.perf_counter_ns() - begun)

    def timed_end(*args):
        begun = time.perf_counter_ns()
        end(*args)
        times[-1] += time.perf_counter_ns() - begun

    callback.on_train_batch_start, callback.on_train_batch_end = timed_start, timed_end
    data = DataLoader(TensorDataset(torch.randn(BATCHES * 4, 4)), batch_size=4)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[callback], default_root_dir=folder, **options).fit(Tiny(), data)
    return statistics.median(times) / 1000


def million_batches() -> tuple[float, float]:
    """Return the growth of memory in MB over a million batches, and the time of one in µs."""
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
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    empty, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            empty.append(hooks_us(Empty(), folder))
            ours.append(hooks_us(EnergyCallback(verbose=False), folder))
    above = [b - a for a, b in zip(empty, ours, strict=True)]
    grown, each = million_batches()
    console = Console()
    table = Table("what", "median", "range", "bar")
    low, high = min(above), max(above)
    table.add_row(
        "hooks of a batch above an empty callback, in a real fit",
        f"{statistics.median(above):.2f} µs",
        f"{low:.2f} to {high:.2f}",
        "3 µs",
    )
    table.add_row("a batch of EnergyMeter in a bare loop", f"{each:.2f} µs", "", "")
    table.add_row("memory grown by 1,000,000 batches", f"{grown:.3f} MB", "", "2 MB")
    table.add_row("import ml_energy_callbacks", f"{import_ms():.1f} ms", "", "30 ms")
    console.print(table)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "pytorch-lightning"))
    console.print(f"Python {platform.python_version()}, {versions}; {ROUNDS} interleaved rounds of {BATCHES} batches.")


if __name__ == "__main__":
    main()
