"""FLOPs that are counted in batches of the Trainer: exact in every way to train; an error in a batch leaves nothing behind."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from frameworks.transformers_loops import FLOPS
from loads import steady
from trainer_models import Sentences, trainer
from transformers import Trainer

from ml_energy_callbacks.transformers import EnergyCallback


@pytest.fixture(autouse=True)
def nothing_was_compiled() -> None:
    """Let the process be as one in which torch.compile has not been used, whatever ran in it before."""
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None:
        dynamo.counters.clear()


def callback(**options: Any) -> EnergyCallback:
    return EnergyCallback(**{"verbose": False, "backends": [steady(360.0)], "count_flops": True, **options})


class Overriding(Trainer):
    """A Trainer of the user's that overrides the steps, and calls what they override."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        return super().training_step(*args, **kwargs)

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        return super().prediction_step(*args, **kwargs)


@pytest.mark.parametrize("kind", [Trainer, Overriding], ids=lambda kind: kind.__name__)
def test_each_stage_is_counted_in_one_batch(tmp_path: Path, kind: Any) -> None:
    energy = callback()
    t = trainer(tmp_path, [energy], samples=40, validation=10, num_train_epochs=1, gradient_accumulation_steps=2, kind=kind)
    t.train()
    t.predict(Sentences(7))
    found = {name: stage.flops for name, stage in energy.record.stages.items() if stage.flops is not None}
    train, forward = FLOPS
    assert {name: (each.method, each.total) for name, each in found.items()} == {
        "train": ("torch operators", 40 * train),
        "validate": ("torch operators", 10 * forward),
        "predict": ("torch operators", 7 * forward),
    }


class Failing(Trainer):
    """A Trainer whose second batch fails."""

    batches = 0

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        self.batches += 1
        if self.batches == 2:
            assert torch._C._len_torch_dispatch_stack() == 1
            msg = "mine"
            raise RuntimeError(msg)
        return super().compute_loss(*args, **kwargs)


def test_an_error_in_the_counted_batch_leaves_nothing_behind(tmp_path: Path) -> None:
    energy = callback()
    with pytest.raises(RuntimeError, match="mine"):
        trainer(tmp_path, [energy], kind=Failing).train()
    assert torch._C._len_torch_dispatch_stack() == 0
    assert energy.record.stages["train"].flops is None
