"""count_fn in real fits: tokens are exact in every stage, or unknown, and training goes on."""

import csv
from pathlib import Path
from typing import Any

import pytest
from lightning_models import PACKAGES, loader, module, trainer
from loads import steady
from pytorch_lightning.loggers import CSVLogger

from ml_energy_callbacks.lightning import EnergyCallback

WATTS, WIDTH, EPOCHS = 360.0, 8, 2


def callback(**options: Any) -> EnergyCallback:
    """Return a callback on a device of constant power."""
    return EnergyCallback(**{"verbose": False, "metrics": "all", "backends": [steady(WATTS)], **options})


def size(batch: Any) -> Any:
    return batch[0].numel()


@pytest.mark.parametrize("package", PACKAGES)
def test_tokens_are_counted_in_every_stage(tmp_path: Path, package: str) -> None:
    energy = callback(count_fn=size)
    t, m = trainer(tmp_path, [energy], package), module(package)
    t.fit(m, loader(42), loader(10, 5))
    logged = dict(t.callback_metrics)
    t.test(m, loader(12, 5), verbose=False)
    t.predict(m, loader(6))
    record = energy.record
    assert {name: stage.tokens for name, stage in record.stages.items()} == {
        "other": None,
        "sanity_check": 10 * WIDTH,
        "train": EPOCHS * 42 * WIDTH,
        "validate": EPOCHS * 10 * WIDTH,
        "test": 12 * WIDTH,
        "predict": 6 * WIDTH,
    }
    train = record.stages["train"]
    assert train.joules == pytest.approx(WATTS * train.seconds, rel=0.1)
    assert train.joules_per_token == pytest.approx((train.joules or 0.0) / (EPOCHS * 42 * WIDTH))
    epochs = [epoch for epoch in record.epochs if epoch.stage == "train"]
    assert [epoch.tokens for epoch in epochs] == [42 * WIDTH] * EPOCHS
    assert float(logged["energy/train/joules_per_token"]) == pytest.approx((epochs[-1].joules or 0.0) / (42 * WIDTH), rel=1e-4)


def test_joules_per_token_is_logged_by_default(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    t = trainer(tmp_path, [callback(count_fn=size, metrics="core")], logger=logger)
    t.fit(module(), loader())
    names = next(csv.reader((Path(logger.log_dir) / "metrics.csv").read_text("utf-8").splitlines()))
    assert {name for name in names if "token" in name} == {
        "energy/train/joules_per_token",
        "energy/train/joules_per_token_step",
    }


@pytest.mark.parametrize("nonsense", [lambda _: 1 // 0, lambda _: -3, lambda _: 2.5, lambda _: "6"], ids=range(4))
def test_a_count_fn_that_fails_is_one_warning(tmp_path: Path, nonsense: Any) -> None:
    calls: list[int] = []

    def count(batch: Any) -> Any:
        calls.append(1)
        return size(batch) if len(calls) < 4 else nonsense(batch)

    energy = callback(count_fn=count)
    t = trainer(tmp_path, [energy])
    t.fit(module(), loader())
    train = energy.record.stages["train"]
    assert (t.global_step, train.samples) == (EPOCHS * 10, EPOCHS * 40)
    assert (train.tokens, train.joules_per_token) == (None, None)
    assert len([text for text in energy.record.warnings if text.startswith("J/token is unknown, as count_fn ")]) == 1
    assert len(calls) == 4  # it is not asked again
