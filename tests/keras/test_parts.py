"""Parts of a batch in real fits of Keras on torch: their edges and times, and a training that stays what it is."""

import copy
import pickle
import time
from collections.abc import Callable
from typing import Any

import keras
import pytest
from busy import BusyWorld
from frameworks.equality import plain
from frameworks.keras_loops import arrays

from ml_energy_callbacks.keras import EnergyCallback

if keras.backend.backend() != "torch":
    pytest.skip("the other backends run a step as one", allow_module_level=True)

from busy_torch import Work, busy


def idle(_: str) -> None:
    """Do nothing in a part."""


@keras.saving.register_keras_serializable()
class Busy(keras.layers.Layer):
    """A layer whose forward and backward passes work."""

    work: Work = staticmethod(idle)

    def call(self, x: Any, training: bool = False) -> Any:  # noqa: FBT001, FBT002 - as Keras passes it
        return busy(x, self.work) if training else x


@keras.saving.register_keras_serializable()
class BusyAdam(keras.optimizers.Adam):
    """An optimizer whose steps work."""

    work: Work = staticmethod(idle)

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        self.work("optimizer")
        return super().apply(*args, **kwargs)


class During(keras.callbacks.Callback):
    """Calls a function at the begin of each batch of the training."""

    def __init__(self, act: Callable[[int], object]) -> None:
        super().__init__()
        self.act = act

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.act(batch)


class OwnStep(keras.Sequential):
    """Has a training step of its own, as in Keras's guide, in which nothing calls ``scale_loss``."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        self.zero_grad()
        loss.backward()
        weights = list(self.trainable_weights)
        self.optimizer.apply([weight.value.grad for weight in weights], weights)
        return {"loss": loss}


class AroundStep(keras.Sequential):
    """Does something around Keras's own training step."""

    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


class MarkedStep(OwnStep):
    """Marks the parts itself."""

    energy: EnergyCallback

    def train_step(self, data: Any) -> Any:
        x, y = data
        part = self.energy.meter.part
        with part("forward"):
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        self.zero_grad()
        with part("backward"):
            loss.backward()
        weights = list(self.trainable_weights)
        self.optimizer.apply([weight.value.grad for weight in weights], weights)
        return {"loss": loss}


def network(kind: type[keras.Sequential] = keras.Sequential, work: Work = idle, **options: Any) -> Any:
    """Return a network with dropout, from a seed, that works in its parts; options are those of the optimizer."""
    keras.utils.set_random_seed(1)
    dtype = options.pop("dtype", None)
    jit_compile = options.pop("jit_compile", False)
    layer, optimizer = Busy(), BusyAdam(**options)
    layer.work = optimizer.work = work
    layers = [keras.layers.Dense(8, dtype=dtype), keras.layers.Dropout(0.3), layer, keras.layers.Dense(1, dtype=dtype)]
    model = kind([keras.layers.Input((8,)), *layers])
    if dtype == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    return model


def fit(model: Any, callbacks: list[Any], epochs: int = 2) -> Any:
    """Train the network, and return it."""
    model.fit(*arrays(20), batch_size=4, epochs=epochs, validation_data=arrays(8), callbacks=callbacks, verbose=0)
    return model


def own_methods(model: Any) -> set[str]:
    """Return the methods that a model and its optimizer have of their own, beside those of their classes."""
    names = {"train_step", "scale_loss", "apply"}
    return names & (vars(model).keys() | vars(model.optimizer).keys())


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "around": {"kind": AroundStep},
    "accumulating": {"gradient_accumulation_steps": 3},
    "bfloat16": {"dtype": "mixed_bfloat16"},
    "float16": {"dtype": "mixed_float16"},
}


@pytest.mark.parametrize("way", WAYS)
def test_each_part_has_its_own_time(way: str) -> None:
    world = BusyWorld()
    energy = world.callback(EnergyCallback)
    fit(network(work=world.work, **WAYS[way]), [energy, During(lambda _: world.work("rest"))])
    compute = energy.record.stages["train"].phases["compute"]
    names = {"rest": "other", "forward": "forward", "backward": "backward", "optimizer": "optimizer"}
    true = {name: world.true[part] for part, name in names.items()}
    assert {name: part.seconds for name, part in compute.parts.items()} == pytest.approx(true)
    assert sum(true.values()) == pytest.approx(compute.seconds)


@pytest.mark.parametrize("way", WAYS)
def test_training_is_bit_for_bit_the_same(way: str) -> None:
    def states(callbacks: list[Any]) -> Any:
        model = fit(network(**WAYS[way]), callbacks)
        return [plain(keras.ops.convert_to_numpy(each)) for each in (*model.variables, *model.optimizer.variables)]

    energy = EnergyCallback(parts=True, verbose=False)
    assert states([energy]) == states([])
    assert energy.record.stages["train"].phases["compute"].parts.keys() >= {"forward", "backward", "optimizer"}


def test_objects_are_as_they_were_after_a_training() -> None:
    model, during = network(), []
    fit(model, [EnergyCallback(parts=True, verbose=False), During(lambda _: during.append(own_methods(model)))])
    assert during[0] == {"train_step", "scale_loss", "apply"}
    assert own_methods(model) == set()


def test_objects_are_as_they_were_soon_after_an_exception() -> None:
    def fail(batch: int) -> None:
        if batch == 3:
            message = "lost"
            raise RuntimeError(message)

    model = network()
    with pytest.raises(RuntimeError, match="lost"):
        fit(model, [EnergyCallback(parts=True, verbose=False), During(fail)])
    until = time.monotonic() + 20
    while own_methods(model) and time.monotonic() < until:  # there is no hook: the meter looks for it
        time.sleep(0.01)
    assert own_methods(model) == set()
    fit(model, [])


def test_objects_are_as_they_were_before_the_next_training() -> None:
    energy, model, during = EnergyCallback(parts=True, verbose=False), network(), []

    def look(batch: int) -> None:
        during.append(own_methods(model))
        if len(during) == 3:
            message = "lost"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="lost"):
        fit(model, [energy, During(look)])
    fit(model, [energy, During(look)], epochs=1)
    assert during[-1] == {"train_step", "scale_loss", "apply"}
    assert own_methods(model) == set()
    assert energy.record.stages["train"].phases["compute"].parts.keys() >= {"forward", "backward", "optimizer"}


def test_a_model_can_be_copied_and_pickled_in_training() -> None:
    model, seen = network(), []

    def look(batch: int) -> None:
        if batch == 3 and not seen:
            seen.extend([copy.deepcopy(model), pickle.loads(pickle.dumps(model))])  # noqa: S301 - ours

    fit(model, [EnergyCallback(parts=True, verbose=False), During(look)])
    assert [own_methods(each) for each in seen] == [set(), set()]


def test_training_inside_of_a_hook_has_no_parts() -> None:
    """A model trained between two batches leaves the wait for data what it is."""
    world = BusyWorld()
    energy, model = world.callback(EnergyCallback), network(work=world.work)

    class Between(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            before = dict(world.true)
            model.train_on_batch(*arrays(4))
            world.true.update({name: before[name] for name in before if name != "wait"})
            world.work("wait")

    fit(model, [energy, Between()], epochs=1)
    compute = energy.record.stages["train"].phases["compute"]
    parts = ("forward", "backward", "optimizer")
    assert {name: compute.parts[name].seconds for name in parts} == pytest.approx({name: world.true[name] for name in parts})
    assert compute.seconds == pytest.approx(sum(world.true[name] for name in parts))


def test_an_error_of_ours_ends_the_parts_alone() -> None:
    energy, model = EnergyCallback(parts=True, verbose=False), network()

    def look(batch: int) -> None:
        if batch == 3:
            energy.meter._stages.parts = None  # type: ignore[assignment]

    fit(model, [energy, During(look)])
    train = energy.record.stages["train"]
    assert (train.batches, own_methods(model)) == (10, set())
    assert train.phases["compute"].parts == {}
    assert "The parts could not be marked" in (train.phases["compute"].parts_reason or "")
    assert len([text for text in energy.record.warnings if "unexpected error" in text]) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"kind": OwnStep}, "The model's own train_step"), ({"jit_compile": True}, "With jit_compile")],
    ids=["own step", "jit_compile"],
)
def test_a_step_without_edges_has_a_reason(options: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", lambda function: function)  # which takes long, and is not asked for here
    energy = EnergyCallback(parts=True, verbose=False)
    fit(network(**options), [energy], epochs=1)
    compute = energy.record.stages["train"].phases["compute"]
    assert compute.parts == {}
    assert (compute.parts_reason or "").startswith(reason)


def test_a_step_that_marks_its_parts_itself_has_them() -> None:
    energy = EnergyCallback(parts=True, verbose=False)
    model = network(MarkedStep)
    model.energy = energy
    fit(model, [energy], epochs=1)
    compute = energy.record.stages["train"].phases["compute"]
    assert compute.parts.keys() == {"forward", "backward", "optimizer", "other"}
