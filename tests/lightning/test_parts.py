"""Parts of a batch in real fits of Lightning: their edges and times, and a training that stays what it is."""

import copy
import pickle
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import pytest
import pytorch_lightning as pl
import torch
from busy import BusyWorld
from busy_torch import Work, busy, busy_optimizer
from frameworks.equality import plain
from lightning_models import loader, trainer

from ml_energy_callbacks.lightning import EnergyCallback

SEAMS = ("batch_to_device", "training_step", "backward", "optimizer_step")


def idle(_: str) -> None:
    """Do nothing in a part."""


class Busy(pl.LightningModule):
    """A regression with dropout that works in each part of a batch."""

    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam

    def __init__(self, work: Work = idle) -> None:
        super().__init__()
        self.work = work
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "work": idle}

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        if self.trainer.training:
            self.work("transfer")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def loss(self, batch: Any) -> torch.Tensor:
        found = torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])
        return busy(found, self.work) if self.trainer.training and self.work is not idle else found

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch)
        self.work("wait")

    def on_train_batch_start(self, *_: Any) -> None:
        self.work("rest")

    def configure_optimizers(self) -> Any:
        return busy_optimizer(self.optimizer, self.parameters(), self.work, lr=0.01)


class ByLBFGS(Busy):
    """Its optimizer runs the forward and the backward pass several times in a step."""

    optimizer = torch.optim.LBFGS


class Skipping(Busy):
    """Leaves out every third step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 3 == 2 else super().training_step(batch, batch_idx)


class Manual(Busy):
    """Two optimizers in turn, as of adversarial networks, the second of which accumulates over two batches."""

    def __init__(self, work: Work = idle) -> None:
        super().__init__(work)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        first.zero_grad()
        self.manual_backward(self.loss(batch))
        self.clip_gradients(first, gradient_clip_val=0.5)
        first.step()
        self.manual_backward(self.loss(batch) / 2)
        if batch_idx % 2:
            second.step()
            second.zero_grad()

    def configure_optimizers(self) -> Any:
        return [busy_optimizer(torch.optim.SGD, layer.parameters(), self.work, lr=0.01) for layer in self.layers[::2]]


class ByItself(Busy):
    """Manual optimisation in which Lightning sees no backward pass."""

    def __init__(self, work: Work = idle) -> None:
        super().__init__(work)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.optimizers().zero_grad()
        self.loss(batch).backward()
        self.optimizers().step()


WAYS: dict[str, tuple[type[Busy], dict[str, Any]]] = {
    "automatic": (Busy, {}),
    "accumulating": (Busy, {"accumulate_grad_batches": 3}),
    "clipping in bf16": (Busy, {"precision": "bf16-mixed", "gradient_clip_val": 0.1}),
    "LBFGS": (ByLBFGS, {}),
    "skipping": (Skipping, {}),
    "manual": (Manual, {}),
}


def fit(folder: Path, kind: Callable[[], pl.LightningModule], callbacks: list[Any], **options: Any) -> Any:
    """Train a module from a seed, and return the trainer."""
    pl.seed_everything(1, verbose=False)
    run = trainer(folder, callbacks, **options)
    run.fit(kind(), loader(20), loader(8))
    return run


def own_methods(run: Any) -> set[str]:
    """Return the methods that a trainer's strategy has of its own, beside those of its class."""
    return {name for name in SEAMS if name in vars(run.strategy)}


class At(pl.Callback):
    """Calls a function with the trainer and its module in a batch of the training."""

    def __init__(self, batch: int, act: Callable[[Any, Any], object]) -> None:
        self.batch, self.act = batch, act

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready == self.batch:
            self.act(trainer, pl_module)


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
@pytest.mark.parametrize("way", WAYS)
def test_each_part_has_its_own_time(tmp_path: Path, way: str) -> None:
    world, (kind, options) = BusyWorld(), WAYS[way]
    energy = world.callback(EnergyCallback)
    fit(tmp_path, lambda: kind(world.work), [energy], **options)
    compute = energy.record.stages["train"].phases["compute"]
    true = {"other" if name == "rest" else name: seconds for name, seconds in world.true.items() if name != "wait"}
    assert {name: part.seconds for name, part in compute.parts.items()} == pytest.approx(true)
    assert sum(true.values()) == pytest.approx(compute.seconds)
    assert compute.parts_reason is None
    assert not energy.record.stages["validate"].phases["compute"].parts


def test_the_parts_come_in_order(tmp_path: Path) -> None:
    world = BusyWorld()
    energy = world.callback(EnergyCallback)
    order: list[Any] = []

    def read(*_: Any) -> None:
        stages = energy.meter._stages
        order.extend(stages.place_of(bucket) for _, bucket in energy.meter._timeline.look().switches)

    fit(tmp_path, lambda: Busy(world.work), [energy, At(3, read)])
    began = [index for index, place in enumerate(order) if place == ("train", "data_wait")][-1]
    assert [place for place, _ in groupby(order[began:])] == [
        ("train", place)
        # What the optimizer's step does between the forward and the backward pass, as setting gradients to zero, is its own.
        for place in ("data_wait", "transfer", "compute", "forward", "optimizer", "backward")
    ]


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
@pytest.mark.parametrize("way", WAYS)
def test_training_is_bit_for_bit_the_same(tmp_path: Path, way: str) -> None:
    kind, options = WAYS[way]

    def states(name: str, callbacks: list[Any]) -> Any:
        run = fit(tmp_path / name, kind, callbacks, **options)
        optimizers = [optimizer.state_dict() for optimizer in run.optimizers]
        return plain([run.lightning_module.state_dict(), optimizers, torch.get_rng_state()])

    energy = EnergyCallback(parts=True, verbose=False)
    assert states("measured", [energy]) == states("alone", [])
    assert energy.record.stages["train"].phases["compute"].parts.keys() >= {"transfer", "forward", "backward", "optimizer"}


def test_objects_are_as_they_were_after_a_training(tmp_path: Path) -> None:
    during: list[set[str]] = []
    see = At(3, lambda run, _: during.append(own_methods(run)))
    run = fit(tmp_path, Busy, [EnergyCallback(parts=True, verbose=False), see])
    assert during == [set(SEAMS)]
    assert own_methods(run) == set()


@pytest.mark.parametrize("error", [RuntimeError("lost"), KeyboardInterrupt()], ids=repr)
def test_objects_are_as_they_were_after_an_exception(tmp_path: Path, error: BaseException) -> None:
    seen: list[Any] = []

    def fail(run: Any, _: Any) -> NoReturn:
        seen.append(run)
        raise error

    with pytest.raises((RuntimeError, SystemExit)):
        fit(tmp_path, Busy, [EnergyCallback(parts=True, verbose=False), At(3, fail)])
    assert own_methods(seen[0]) == set()


def test_a_method_that_somebody_put_over_ours_stays(tmp_path: Path) -> None:
    seen: list[str] = []

    def patch(run: Any, _: Any) -> None:
        ours = run.strategy.training_step

        def theirs(*args: Any) -> Any:
            seen.append("theirs")
            return ours(*args)

        run.strategy.training_step = theirs

    energy = EnergyCallback(parts=True, verbose=False)
    run = fit(tmp_path, Busy, [energy, At(3, patch)])
    assert own_methods(run) == {"training_step"}
    assert len(seen) == run.global_step - 3
    run.fit_loop.max_epochs = 3
    run.fit(run.lightning_module, loader(20))  # through both, the inner one of which has nothing to do any more
    assert energy.record.stages["train"].batches == 15
    assert run.strategy.training_step.__name__ == "theirs"


def test_a_module_can_be_copied_and_pickled_in_training(tmp_path: Path) -> None:
    seen: list[Any] = []
    see = At(3, lambda _, module: seen.extend([copy.deepcopy(module), pickle.loads(pickle.dumps(module))]))  # noqa: S301 - ours
    fit(tmp_path, Busy, [EnergyCallback(parts=True, verbose=False), see])
    assert [type(each) for each in seen] == [Busy, Busy]


def test_an_error_of_ours_ends_the_parts_alone(tmp_path: Path) -> None:
    energy = EnergyCallback(parts=True, verbose=False)

    def break_meter(*_: Any) -> None:
        energy.meter._stages.parts = None

    run = fit(tmp_path, Busy, [energy, At(3, break_meter)])
    train = energy.record.stages["train"]
    assert (run.global_step, train.batches, own_methods(run)) == (10, 10, set())
    assert train.phases["compute"].parts == {}
    assert "The parts could not be marked" in (train.phases["compute"].parts_reason or "")
    assert len([text for text in energy.record.warnings if "unexpected error" in text]) == 1


def test_a_backward_pass_that_lightning_does_not_see_has_a_reason(tmp_path: Path) -> None:
    energy = EnergyCallback(parts=True, verbose=False)
    fit(tmp_path, ByItself, [energy])
    compute = energy.record.stages["train"].phases["compute"]
    assert compute.parts == {}
    assert "call self.manual_backward(loss)" in (compute.parts_reason or "")


def test_there_are_no_parts_without_the_option(tmp_path: Path) -> None:
    during: list[set[str]] = []
    energy = EnergyCallback(verbose=False)
    fit(tmp_path, Busy, [energy, At(3, lambda run, _: during.append(own_methods(run)))])
    compute = energy.record.stages["train"].phases["compute"]
    assert (during, compute.parts, compute.parts_reason) == ([set()], {}, None)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # of torch itself
@pytest.mark.parametrize("kind", [Busy, Manual])
def test_a_compiled_module_trains_the_same(tmp_path: Path, kind: type[Busy]) -> None:
    def states(name: str, callbacks: list[Any]) -> Any:
        torch._dynamo.reset()
        run = fit(tmp_path / name, lambda: torch.compile(kind(), backend="eager"), callbacks)  # type: ignore[arg-type,return-value]
        return plain(run.lightning_module.state_dict())

    energy = EnergyCallback(parts=True, verbose=False)
    assert states("measured", [energy]) == states("alone", [])
    compute = energy.record.stages["train"].phases["compute"]
    if kind is Manual:
        assert compute.parts == {}
        assert "torch.compile" in (compute.parts_reason or "")
    else:
        assert compute.parts.keys() >= {"forward", "backward", "optimizer"}
