"""The loops that the workers of Ray Train run, on simulated hardware."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
from hidden import hide

from ml_energy_callbacks import EnergyMeter, LoopDescription
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.frameworks.torch import all_gather
from ml_energy_callbacks.job.launcher import Launch, launched
from ml_energy_callbacks.readings import Source
from ml_energy_callbacks.testing import PowerCurve, ScriptedCounter

CPU, GPU = "scripted:cpu", "scripted:gpu-{rank}"
WATTS = {CPU: 40.0, GPU.format(rank=0): 100.0, GPU.format(rank=1): 160.0}
_REST_WATTS = 0.01  # so that some ms more or less at the start and the end of a run make no difference
_PERIOD_S = 0.02
_RESOLUTION_J = 1e-6
"""The counters show each refresh even when idle, so that their refreshes are learned before the work begins."""
_REST_S = 15 * _PERIOD_S
"""The counters are read between the ends of the run and the work, even if some reads are late."""


class Hardware:
    """The host's processor, which both workers see, and the GPU of this worker; they use power while it trains."""

    name = "scripted"

    def open(self) -> Sequence[Source]:
        names = [CPU, GPU.format(rank=place().rank)]
        self._curves = {name: PowerCurve(monotonic_clock, _REST_WATTS) for name in names}
        sources = [
            ScriptedCounter(curve, monotonic_clock, period_s=_PERIOD_S, resolution_joules=_RESOLUTION_J)
            for curve in self._curves.values()
        ]
        for name, source in zip(names, sources, strict=True):
            source.device = replace(source.device, id=name, kind="cpu" if name == CPU else "gpu")
        return sources

    def work(self) -> None:
        """Begin to work, some time after the run began."""
        time.sleep(_REST_S)
        self._began = {name: curve.joules() for name, curve in self._curves.items()}
        for name, curve in self._curves.items():
            curve.set(WATTS[name])

    def rest(self, folder: Path) -> None:
        """End the work, some time before the run ends, and write the devices' true energy into a folder."""
        for curve in self._curves.values():
            curve.set(_REST_WATTS)
        joules = {name: curve.joules() - self._began[name] for name, curve in self._curves.items()}
        time.sleep(_REST_S)
        (folder / f"truth-{place().rank}.json").write_text(json.dumps(joules), encoding="utf-8")


def place() -> Launch:
    launch = launched()
    assert launch is not None
    return launch


def run_folder() -> Path:
    directory = place().directory
    assert directory is not None
    return Path(directory)


def plain(hardware: Hardware) -> None:
    """Run a loop of the user's own."""
    meter = EnergyMeter(output_dir=run_folder() / "plain", location="FRA", backends=[hardware], verbose=False)
    meter.start(LoopDescription(gather=all_gather))
    hardware.work()
    for epoch in range(2):
        began = meter.point()
        with meter.stage("train"):
            for _ in range(10):
                with meter.batch(samples=4):
                    time.sleep(0.1)
        metrics, _ = meter.close_epoch("train", epoch, began)
        with tempfile.TemporaryDirectory() as empty:  # Ray's result has the metrics of reports with a checkpoint
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(empty))
    hardware.rest(run_folder() / "plain")
    meter.stop()


def lightning(config: dict[str, Any]) -> None:
    """Fit with Lightning; the callback that reports to Ray comes before the one that measures."""
    hide(["tensorflow"])  # TensorBoard's writer would import it, but does not need it
    import lightning.pytorch as pl  # noqa: PLC0415 - a worker's alone
    import ray.train.lightning as ray_lightning  # noqa: PLC0415
    from lightning_models import loader, module  # noqa: PLC0415

    class World(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            config["hardware"].work()

        def on_train_batch_start(self, *_: Any) -> None:
            time.sleep(0.1)

        def on_train_end(self, *_: Any) -> None:
            config["hardware"].rest(run_folder())

    trainer = pl.Trainer(
        accelerator="cpu",
        strategy=ray_lightning.RayDDPStrategy(),
        plugins=[ray_lightning.RayLightningEnvironment()],
        callbacks=[ray_lightning.RayTrainReportCallback(), config["energy"], World()],
        logger=pl.loggers.TensorBoardLogger(config["logs"], name="", version=""),
        max_epochs=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    ray_lightning.prepare_trainer(trainer).fit(module("lightning.pytorch"), loader(80, 4))


def both(config: dict[str, Any]) -> None:
    """Run one after the other, because starting the workers takes most of the time."""
    plain(Hardware())
    lightning(config)
