"""The cost of predictions of torch modules."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ml_energy_callbacks.inference import Comparison, Profile, compare_models, profile_inference
from ml_energy_callbacks.inference.models import predictor, size_on_disk

CALL_S = 0.01


class Rest(nn.Module):
    """Takes its time, and leaves the processor to others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(CALL_S)
        return x


class Seen(nn.Module):
    """Notes how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.dropout = nn.Dropout()
        self.rest = Rest()
        self.calls: set[tuple[bool, bool]] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.rest(self.dropout(self.linear(x)))
        self.calls.add((self.training, outputs.requires_grad))
        return outputs


class Known(Exception):  # noqa: N818 - no error
    """All is known that a test looks at; the measurement need not go on."""


class UntilKnown:
    """Ends a measurement when each of its parts has been measured once, however long that takes on a busy machine."""

    last: Any

    def __call__(self, found: Comparison | Profile) -> None:
        self.last = found
        parts = found.models if isinstance(found, Comparison) else found.sizes
        if all(part.repeats for part in parts):
            raise Known


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == targets).float().mean()


def test_modules_are_compared_in_eval_mode_without_gradients_and_get_their_modes_back(tmp_path: Path) -> None:
    first, frozen = Seen(), Seen()
    frozen.dropout.eval()
    data = [(torch.randn(8, 16), torch.randint(0, 3, (8,))) for _ in range(3)]
    models = {"first": first, "frozen": frozen, "plain": lambda x: first.rest(first.linear(x).detach())}
    progress = UntilKnown()
    with pytest.raises(Known):
        compare_models(models, data, accuracy, max_seconds=16, progress=progress)
    comparison = progress.last
    assert first.calls == frozen.calls == {(False, False)}
    assert (first.training, first.dropout.training, first.linear.training) == (True, True, True)
    assert (frozen.training, frozen.dropout.training, frozen.linear.training) == (True, False, True)
    with torch.inference_mode():
        truth = accuracy(first.linear(torch.cat([x for x, _ in data])), torch.cat([y for _, y in data]))
    assert [comparison.models[i].accuracy for i in (0, 2)] == pytest.approx([float(truth)] * 2)
    torch.save(first.state_dict(), tmp_path / "first.pt")
    size = (tmp_path / "first.pt").stat().st_size
    assert comparison.models[0].size_bytes == pytest.approx(size, abs=256)  # the file's name is in the file
    assert comparison.models[2].size_bytes is None
    for model in comparison.models:
        assert model.repeats >= 1
        assert model.joules_per_sample is not None
        assert model.joules_per_sample.mean > 0


def test_a_module_is_profiled() -> None:
    module = Seen()
    progress = UntilKnown()
    with pytest.raises(Known):
        profile_inference(module, lambda size: torch.randn(size, 16), (1, 32), max_seconds=16, progress=progress)
    assert module.calls == {(False, False)}
    assert module.training
    for size in progress.last.sizes:
        assert size.latency is not None
        assert 0 < size.latency.p50_s < 0.1


def test_the_modes_come_back_after_an_error() -> None:
    module, modes = Seen(), []

    def interrupted(_: int) -> torch.Tensor:
        modes.append(module.training)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile_inference(module, interrupted, (1,), max_seconds=1)
    assert modes == [False]
    assert module.training


def test_a_module_that_cannot_be_saved_has_no_size() -> None:
    module = Seen()
    module.register_buffer("x", torch.zeros(1))
    module.state_dict = lambda: {"x": lambda: 0}  # type: ignore[method-assign, assignment, return-value] # cannot be pickled
    assert size_on_disk(module) is None


def test_a_module_of_too_little_memory_is_told() -> None:
    predict = predictor("a", nn.Sequential(nn.Linear(4, 4), Rest()))
    profile = profile_inference(predict, lambda size: torch.empty(size, 4), (1, 2**55), max_seconds=6)
    assert [size.state for size in profile.sizes] == ["undecided", "out_of_memory"]
    assert profile.sizes[1].note is not None
    assert profile.sizes[1].note.startswith("Out of memory (RuntimeError:")
