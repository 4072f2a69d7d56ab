"""Parts of a batch in real trainings of Hugging Face: their edges and times, and a training that stays what it is."""

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from busy import BusyWorld
from busy_torch import Work, busy, busy_optimizer
from frameworks.equality import plain
from trainer_models import AroundBatch, model, trainer
from transformers import Trainer, set_seed

from ml_energy_callbacks.transformers import EnergyCallback

SEAMS = {"_prepare_inputs", "compute_loss", "backward", "clip_grad_norm_"}
PARTS = {"transfer", "forward", "backward", "optimizer"}


def idle(_: str) -> None:
    """Do nothing in a part."""


class BusyTrainer(Trainer):
    """Works in each part of a batch but the transfer: the data loader moves the batches of this one."""

    work: Work = staticmethod(idle)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return busy(loss, self.work) if model.training else loss

    def create_optimizer(self, *_: Any) -> Any:
        self.optimizer = self.optimizer or busy_optimizer(torch.optim.AdamW, self.model.parameters(), self.work, lr=1e-3)
        return self.optimizer


class OwnStep(Trainer):
    """Has a training step of its own that does not use what the Trainer has for it."""

    def training_step(self, model: Any, inputs: Any, *_: Any) -> Any:
        loss = model(**inputs).loss
        loss.backward()
        return loss.detach()


def train(folder: Path, callbacks: list[Any], kind: Any = BusyTrainer, work: Work = idle, **options: Any) -> Any:
    """Train from a seed, and return the Trainer."""
    set_seed(1)
    run = trainer(folder, callbacks, kind=kind, **{"samples": 24, "validation": 4, "num_train_epochs": 1, **options})
    run.work = work
    run.train()
    return run


def own_methods(run: Any) -> set[str]:
    """Return the methods that a Trainer and its accelerator have of their own, beside those of their classes."""
    return SEAMS & (vars(run).keys() | vars(run.accelerator).keys())


def during(act: Any, step: int = 3) -> AroundBatch:
    """Return a callback that calls a function at the begin of a step."""
    return AroundBatch(inside=lambda index: act() if index == step else None)


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulating": {"gradient_accumulation_steps": 3},
    "bf16": {"bf16": True},
    "without clipping": {"max_grad_norm": 0.0},
}


@pytest.mark.parametrize("way", WAYS)
def test_each_part_has_its_own_time(tmp_path: Path, way: str) -> None:
    world = BusyWorld()
    rest = AroundBatch(inside=lambda _: world.work("rest"))
    energy = world.callback(EnergyCallback)
    train(tmp_path, [energy, rest], work=world.work, **WAYS[way])
    compute = energy.record.stages["train"].phases["compute"]
    names = {"rest": "other", "forward": "forward", "backward": "backward", "optimizer": "optimizer"}
    true = {name: world.true[part] for part, name in names.items()}
    assert {name: part.seconds for name, part in compute.parts.items()} == pytest.approx(true)
    assert sum(true.values()) == pytest.approx(compute.seconds)


@pytest.mark.parametrize("way", WAYS)
def test_training_is_bit_for_bit_the_same(tmp_path: Path, way: str) -> None:
    def states(name: str, callbacks: list[Any]) -> Any:
        run = train(tmp_path / name, callbacks, **WAYS[way])
        return plain([run.model.state_dict(), run.optimizer.state_dict(), torch.get_rng_state()])

    energy = EnergyCallback(parts=True, verbose=False)
    assert states("measured", [energy]) == states("alone", [])
    assert energy.record.stages["train"].phases["compute"].parts.keys() >= PARTS


@pytest.mark.parametrize("fails", [False, True], ids=["completed", "failed"])
def test_a_trainer_is_as_it_was_and_ends_with_its_last_reference(tmp_path: Path, *, fails: bool) -> None:
    found: list[set[str]] = []

    def look() -> None:
        found.append(own_methods(run))
        if fails:
            message = "lost"
            raise RuntimeError(message)

    def run_once() -> Any:
        nonlocal run
        run = trainer(tmp_path, [EnergyCallback(parts=True, verbose=False), during(lambda: look())], samples=20)  # noqa: PLW0108 - later
        try:
            run.train()
        except RuntimeError as error:
            error.__traceback__ = None
        assert own_methods(run) == set()
        gone, run = weakref.ref(run), None
        return gone

    run: Any = None
    run_once()  # what is made once in a process
    gc.collect()
    gc.disable()
    try:
        assert run_once()() is None
    finally:
        gc.enable()
    assert found == [SEAMS] * 2


def test_a_model_can_be_copied_and_pickled_in_training(tmp_path: Path) -> None:
    seen: list[Any] = []
    run = trainer(tmp_path, [], samples=20, num_train_epochs=1)
    run.add_callback(EnergyCallback(parts=True, verbose=False))
    run.add_callback(during(lambda: seen.extend([copy.deepcopy(run.model), pickle.loads(pickle.dumps(run.model))])))  # noqa: S301 - ours
    run.train()
    assert [type(each) for each in seen] == [type(model())] * 2


def test_an_error_of_ours_ends_the_parts_alone(tmp_path: Path) -> None:
    energy = EnergyCallback(parts=True, verbose=False)

    def break_meter() -> None:
        energy.meter._stages.parts = None  # type: ignore[assignment]

    run = train(tmp_path, [energy, during(break_meter)])
    stage = energy.record.stages["train"]
    assert (run.state.global_step, stage.batches, own_methods(run)) == (6, 6, set())
    assert stage.phases["compute"].parts == {}
    assert "The parts could not be marked" in (stage.phases["compute"].parts_reason or "")
    assert len([text for text in energy.record.warnings if "unexpected error" in text]) == 1


def test_a_step_without_edges_has_a_reason(tmp_path: Path) -> None:
    energy = EnergyCallback(parts=True, verbose=False)
    train(tmp_path, [energy], kind=OwnStep)
    compute = energy.record.stages["train"].phases["compute"]
    assert compute.parts == {}
    assert "training_step" in (compute.parts_reason or "")


def test_there_are_no_parts_without_the_option(tmp_path: Path) -> None:
    found: list[set[str]] = []
    energy = EnergyCallback(verbose=False)
    run = trainer(tmp_path, [energy, during(lambda: found.append(own_methods(run)))], samples=20, num_train_epochs=1)
    run.train()
    compute = energy.record.stages["train"].phases["compute"]
    assert (found, compute.parts, compute.parts_reason) == ([set()], {}, None)
