"""The record's epochs have what Lightning logged, as its own logger wrote it."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import PACKAGES, loader, module, trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from ml_energy_callbacks.lightning import EnergyCallback


def talkative(package: str = "pytorch_lightning") -> Any:
    """Return a module that logs in each way there is."""

    class Talkative(type(module(package))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss: torch.Tensor = self._loss(batch)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", self._loss(batch))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test_loss", self._loss(batch))

        def on_train_epoch_end(self) -> None:
            self.log("late", float(self.current_epoch))
            self.log("never", float("nan"))
            if self.current_epoch == 1:
                self.log("once", 7.0)

    return Talkative()


def column(folder: Path, name: str) -> list[float]:
    """Return the values of a metric that the CSV logger wrote."""
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return [float(row[name]) for row in rows if row.get(name)]


@pytest.mark.parametrize("package", PACKAGES)
def test_epochs_have_the_metrics_that_lightning_logged(tmp_path: Path, package: str) -> None:
    energy, logger = EnergyCallback(verbose=False), CSVLogger(tmp_path)
    saves = ModelCheckpoint(tmp_path / "best", monitor="val_loss")  # reads the metrics, too
    options = {"max_epochs": 4, "check_val_every_n_epoch": 2, "enable_checkpointing": True}
    callbacks = [energy, saves] if package == "pytorch_lightning" else [energy]
    t, m = trainer(tmp_path, callbacks, package, logger=logger, **options), talkative(package)
    t.fit(m, loader(40), loader(20))
    t.test(m, loader(20), verbose=False)
    found = {stage: [each.metrics for each in energy.record.epochs if each.stage == stage] for stage in energy.record.stages}
    train, folder = found["train"], Path(logger.log_dir)
    assert [{*metrics} - {"once"} for metrics in train] == [{"train_loss", "train_loss_epoch", "train_loss_step", "late"}] * 4
    assert [metrics["train_loss_epoch"] for metrics in train] == pytest.approx(column(folder, "train_loss_epoch"), rel=1e-5)
    assert [metrics["late"] for metrics in train] == [0.0, 1.0, 2.0, 3.0]
    assert [metrics.get("once") for metrics in train] == [None, 7.0, None, None]
    assert [{*metrics} for metrics in found["validate"]] == [{"val_loss"}] * 2
    assert [metrics["val_loss"] for metrics in found["validate"]] == pytest.approx(column(folder, "val_loss"), rel=1e-5)
    assert [metrics["test_loss"] for metrics in found["test"]] == pytest.approx(column(folder, "test_loss"), rel=1e-5)


def test_several_validations_of_an_epoch_have_their_own_metrics(tmp_path: Path) -> None:
    energy, logger = EnergyCallback(verbose=False), CSVLogger(tmp_path)
    t = trainer(tmp_path, [energy], max_epochs=1, val_check_interval=0.5, logger=logger)
    t.fit(talkative(), loader(40), loader(20))
    told = [each.metrics["val_loss"] for each in energy.record.epochs if each.stage == "validate"]
    assert told == pytest.approx(column(Path(logger.log_dir), "val_loss"), rel=1e-5)
    assert len({*told}) == 2


def test_several_data_loaders_have_a_metric_each(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False)
    trainer(tmp_path, [energy], max_epochs=1).fit(talkative(), loader(40), [loader(20), loader(12)])
    (epoch,) = [each for each in energy.record.epochs if each.stage == "validate"]
    assert {*epoch.metrics} == {"val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"}
