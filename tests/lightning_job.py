"""A training in several processes for the tests to start: each has its own GPU, whose power differs from the others'."""

import argparse
import ctypes
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import job_world
import pytorch_lightning as pl
import torch
from lightning_models import loader, trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import ModelParallelStrategy

from ml_energy_callbacks.backends.cpu_model import CpuModelBackend
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.lightning import EnergyCallback

STRATEGIES = {"tensor_parallel": lambda: ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)}

_NEW_MOUNTS, _NEW_HOST_NAME = 0x20000, 0x4000000
"""The flags CLONE_NEWNS and CLONE_NEWUTS, https://man7.org/linux/man-pages/man2/unshare.2.html"""


class Linear(pl.LightningModule):
    """A linear regression that another process can unpickle."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.layer(batch[0])

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0])

    def configure_model(self) -> None:
        """Leave the model as it is; a strategy that splits models requires this method."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Place(pl.Callback):
    """Give the process a GPU and its host a processor, set its pace, and kill it at the batch given by the options."""

    def __init__(self, options: Any, place: job_world.Place) -> None:
        self.options, self.place = options, place

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        options = self.options
        rank = trainer.global_rank
        gpu = options.gpus[trainer.local_rank % len(options.gpus)]
        self.place.see([gpu], refresh_s=1.5 if rank == options.unread else job_world.REFRESH_S)
        if rank == options.late:
            time.sleep(2)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.place.work()
        if self.options.unread is not None and trainer.global_rank != self.options.unread:
            time.sleep(3)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.place.rest(self.options.folder, trainer.global_rank)

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        slow = 3.0 if trainer.global_rank == self.options.slow else 1.0
        time.sleep(self.options.pause * slow)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_rank == self.options.dies and trainer.current_epoch == 1 and args[-1] == 10:
            os.kill(os.getpid(), 9)

    def on_predict_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_rank == self.options.dies and args[3] == 10:
            os.kill(os.getpid(), 9)


class Keys(pl.Callback):
    """Write the logged metrics into a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        (self.folder / f"logged-{trainer.global_rank}.json").write_text(json.dumps(found), encoding="utf-8")


def be_on(host: str, identity: Path) -> None:
    """Continue as on another host, with a name and an identity that only this process sees."""
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    assert unshare(_NEW_MOUNTS | _NEW_HOST_NAME) == 0, os.strerror(ctypes.get_errno())
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "--bind", identity, "/proc/sys/kernel/random/boot_id"], check=True)
    socket.sethostname(host)


def main() -> None:
    """Fit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--slow", type=int)
    parser.add_argument("--late", type=int)
    parser.add_argument("--dies", type=int)
    parser.add_argument("--unread", type=int, help="its GPU is not read before the training starts, but before the others come")
    parser.add_argument("--save-at", type=int, help="leave a checkpoint at this step")
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--no-processor-on", type=int)
    parser.add_argument("--hosts", nargs="+", default=[], help="names; the identity of each is in the folder")
    parser.add_argument("--ahead", type=int, help="so many seconds are the clocks of all hosts ahead of the first one's")
    options = parser.parse_args()
    node = int(os.environ.get("NODE_RANK", "0"))
    if options.hosts:
        be_on(options.hosts[node], options.folder / options.hosts[node])
    if options.ahead and node:
        ctypes.c_long.in_dll(ctypes.CDLL(None), "seconds_ahead").value = options.ahead
    place = job_world.Place(steady=options.dies is not None)
    backends: list[Any] = [NvmlBackend()]
    if node != options.no_processor_on:
        backends.append(place.processor)
    else:
        backends.append(CpuModelBackend())
    energy = EnergyCallback(backends=backends, location="FRA", electricity_price=0.2, metrics="all")
    savers = []
    if options.save_at is not None:
        savers.append(ModelCheckpoint(options.folder, filename="{step}", every_n_train_steps=options.save_at, save_top_k=-1))
    t = trainer(
        options.folder,
        [Place(options, place), energy, Keys(options.folder), *savers],
        logger=[] if options.silent else [pl.loggers.CSVLogger(options.folder, name="", version="")],
        strategy=STRATEGIES.get(options.strategy, lambda: options.strategy)(),
        devices=options.ranks,
        num_nodes=options.nodes,
        enable_checkpointing=bool(savers),
        max_epochs=3,
    )
    m, data = Linear(), loader(options.ranks * options.nodes * 80, 4)
    if options.predict:
        assert len(t.predict(m, data)) == 20
        return
    t.fit(m, data, loader(options.ranks * options.nodes * 8, 4))


if __name__ == "__main__":
    main()
