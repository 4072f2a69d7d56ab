"""The record's epochs have what the Trainer logged, as its own history holds it."""

from pathlib import Path
from typing import Any

import pytest
from trainer_models import Sentences, trainer

from ml_energy_callbacks.transformers import EnergyCallback


def values(t: Any, name: str) -> list[float]:
    """Return the values of a metric in the Trainer's history."""
    return [entry[name] for entry in t.state.log_history if name in entry]


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_epochs_have_the_metrics_that_the_trainer_logged(tmp_path: Path, strategy: str) -> None:
    energy = EnergyCallback(verbose=False)
    t = trainer(tmp_path, [energy], validation=10, logging_strategy=strategy, eval_strategy="epoch")
    t.train()
    losses = values(t, "eval_loss")
    t.evaluate()
    t.predict(Sentences(10))
    found = {stage: [each.metrics for each in energy.record.epochs if each.stage == stage] for stage in energy.record.stages}
    last = values(t, "loss") if strategy == "epoch" else values(t, "loss")[1::2]  # at steps 5, 10, 15 and 20 of two epochs
    assert [metrics["loss"] for metrics in found["train"]] == pytest.approx(last, rel=1e-6)
    assert [metrics["eval_loss"] for metrics in found["validate"]] == pytest.approx(losses, rel=1e-6)
    assert not any(name.startswith(("energy/", "eval_")) for metrics in found["train"] for name in metrics)
    assert "epoch" not in found["train"][0]
    assert "train_runtime" not in found["train"][0]
    assert found["train"][1]["train_loss"] == pytest.approx(values(t, "train_loss")[0], rel=1e-6)
    assert found["test"][0]["eval_loss"] == pytest.approx(values(t, "eval_loss")[-1], rel=1e-6)
    assert "test_loss" in found["predict"][0]
