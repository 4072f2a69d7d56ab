"""What the workers of Ray Train run, on simulated hardware."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.launcher import launched
from ml_energy_callbacks.readings import Source
from ml_energy_callbacks.testing import PowerCurve, ScriptedCounter
from ml_energy_callbacks.torch_group import all_gather

HOST_WATTS = 40.0
GPU_WATTS = (100.0, 160.0)


class Hardware:
    """The processor of the host, which both workers see, and the GPU of the one that asks."""

    name = "scripted"

    def open(self) -> Sequence[Source]:
        rank = ray.train.get_context().get_world_rank()
        cpu, gpu = (
            ScriptedCounter(PowerCurve(monotonic_clock, watts), monotonic_clock, period_s=0.0)
            for watts in (HOST_WATTS, GPU_WATTS[rank])
        )
        cpu.device = replace(cpu.device, id="scripted:cpu", kind="cpu")
        gpu.device = replace(gpu.device, id=f"scripted:gpu-{rank}")
        return [cpu, gpu]


def lightning(config: dict[str, Any]) -> None:
    """Fit with Lightning; what reports to Ray comes before the callback that measures."""
    import lightning.pytorch as pl  # noqa: PLC0415 - the other loop needs none of it
    import ray.train.lightning as ray_lightning  # noqa: PLC0415
    from lightning_models import loader, module  # noqa: PLC0415

    class Pace(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            time.sleep(0.1)

    trainer = pl.Trainer(
        accelerator="cpu",
        strategy=ray_lightning.RayDDPStrategy(),
        plugins=[ray_lightning.RayLightningEnvironment()],
        callbacks=[ray_lightning.RayTrainReportCallback(), config["energy"], Pace()],
        logger=pl.loggers.TensorBoardLogger(config["logs"], name="", version=""),
        max_epochs=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    ray_lightning.prepare_trainer(trainer).fit(module("lightning.pytorch"), loader(80, 4))


def plain() -> None:
    """Run a loop of the user's own."""
    launch = launched()
    assert launch is not None
    assert launch.directory is not None
    folder = Path(launch.directory, "plain")
    meter = EnergyMeter(output_dir=folder, location="FRA", backends=[Hardware()], verbose=False)
    meter.start(gather=all_gather)
    for epoch in range(2):
        began = meter.point()
        with meter.stage("train"):
            for _ in range(10):
                with meter.batch(samples=4):
                    time.sleep(0.2)
        metrics, _ = meter.close_epoch("train", epoch, began)
        with tempfile.TemporaryDirectory() as empty:  # Ray's result has the metrics of reports with a checkpoint
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(empty))
    meter.stop()


def both(config: dict[str, Any]) -> None:
    """Run one after the other: most of the time is that of starting the workers."""
    plain()
    lightning(config)
