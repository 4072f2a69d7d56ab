"""Times of the layers in real trainings of the Trainer, on one step in some."""

from pathlib import Path
from typing import Any

import pytest
import torch
from loads import steady
from trainer_models import trainer

from ml_energy_callbacks.transformers import EnergyCallback


def callback(**options: Any) -> EnergyCallback:
    """Return a callback on a device of constant power."""
    return EnergyCallback(verbose=False, backends=[steady(360.0)], **options)


@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_training_times_its_layers_and_has_the_same_weights(tmp_path: Path, accumulated: int) -> None:
    weights = []
    for options in ({}, {"layers_every_n_steps": 2}):
        torch.manual_seed(0)
        energy = callback(**options)
        t = trainer(tmp_path, [energy], validation=10, gradient_accumulation_steps=accumulated)
        t.train()
        weights.append([parameter.detach().clone() for parameter in t.model.parameters()])
        assert (energy.layers is None) == (not options)
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    profile = energy.layers
    assert profile is not None
    assert profile.steps == t.state.global_step // 2
    layers = {layer.name: layer for layer in profile.layers}
    assert {"bert", "bert.embeddings", "bert.encoder", "bert.pooler", "dropout", "classifier"} <= layers.keys()
    assert layers["bert"].calls == {1: 1, 3: 2}[accumulated]  # of 10 batches, the last one is a step of its own
    assert layers["bert"].forward_seconds > layers["bert.encoder"].forward_seconds > 0  # type: ignore[operator]
    assert layers["bert"].backward_seconds > layers["bert.encoder"].backward_seconds > 0  # type: ignore[operator]
    assert sum(len(part._forward_hooks) for part in t.model.modules()) == 0
