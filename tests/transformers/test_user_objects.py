"""Nothing of the user's is changed, held or kept alive: Trainers, their copies, what callers have, the log's entries."""

import copy
import gc
import time
import weakref
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from loads import steady
from trainer_models import AroundBatch, Sentences, trainer
from transformers import Trainer, TrainerCallback

from ml_energy_callbacks.transformers import EnergyCallback


def callback(**options: Any) -> EnergyCallback:
    """Return a callback on a device of constant power."""
    return EnergyCallback(**{"verbose": False, "metrics": "all", "backends": [steady(360.0)], **options})


class Held:
    """Something of a user's."""


@pytest.mark.parametrize("later", [False, True], ids=["at first", "added later"])
@pytest.mark.parametrize("fails", [False, True], ids=["completed", "failed"])
def test_a_trainer_and_its_model_end_with_their_last_reference(tmp_path: Path, *, later: bool, fails: bool) -> None:
    """No garbage collection is needed: a loop over trainings would run out of the GPU's memory until there is one."""

    def fail(_: int) -> None:
        if fails:
            message = "mine"
            raise RuntimeError(message)

    def train(energy: EnergyCallback) -> list[Any]:
        """Train, and return what to watch; this frame's own variables are gone then."""
        t = trainer(tmp_path, [AroundBatch(after=fail)] if later else [energy, AroundBatch(after=fail)], num_train_epochs=1)
        if later:
            t.add_callback(energy)
        try:
            t.train()
        except RuntimeError as error:
            error.__traceback__ = None
        else:
            t.predict(Sentences(4))
        return [weakref.ref(t), weakref.ref(t.model)]

    energy = callback()
    train(energy)  # what is made once in a process
    gc.collect()
    gc.disable()
    try:
        alive = train(energy)
        _ = energy.record
        assert [thing() for thing in alive] == [None, None]
    finally:
        gc.enable()
    assert energy.record.run.status == ("failed" if fails else "completed")


def test_a_callers_variables_are_not_kept_by_its_frame(tmp_path: Path) -> None:
    class Runner:
        def run(self) -> Any:
            held = Held()
            seen = weakref.ref(held)
            trainer(tmp_path, [callback()], num_train_epochs=1).train()
            del held
            return seen()

    assert Runner().run() is None


def test_a_trainer_has_no_attributes_of_ours_and_is_what_it_was(tmp_path: Path) -> None:
    class Own(Trainer):
        def evaluate(self, *args: Any, **options: Any) -> Any:
            return {"own": 1.0, **super().evaluate(*args, **options)}

    plain, measured = (trainer(tmp_path, callbacks, kind=Own, validation=5) for callbacks in ([], [callback()]))
    assert vars(measured).keys() == vars(plain).keys()
    assert isinstance(measured, Own)
    assert type(measured).__name__ == "Own"
    assert measured.evaluate()["own"] == 1.0


def test_a_copy_of_a_trainer_works_on_itself(tmp_path: Path) -> None:
    energy = callback()
    t = trainer(tmp_path, [energy], num_train_epochs=1)
    other = copy.copy(t)
    other.model = copy.deepcopy(t.model)
    before = [parameter.clone() for parameter in t.model.parameters()]
    other.train()
    assert other.state.global_step == 10
    assert t.state.global_step == 0
    assert all(torch.equal(old, new) for old, new in zip(before, t.model.parameters(), strict=True))
    assert energy.record.stages["train"].samples == 40
    assert t.__reduce_ex__(4)[1][0] is Trainer  # what a pickle names, which the other process can import


def test_each_entry_of_the_history_is_one_of_the_trainers_own(tmp_path: Path) -> None:
    energy = callback()
    t = trainer(tmp_path, [energy], validation=5)
    t.train()
    history = t.state.log_history
    kinds = ["loss" if "loss" in entry else "eval" if "eval_loss" in entry else "end" for entry in history]
    assert kinds == ["loss", "loss", "eval", "loss", "loss", "eval", "end"]
    assert [("energy/train/joules" in entry, "energy/validate/joules" in entry) for entry in history] == [
        *[(False, False), (True, False), (False, True)] * 2,
        (False, False),
    ]
    assert all("energy/train/joules_step" in entry for entry in history if "loss" in entry)


@pytest.mark.parametrize("options", [{"logging_strategy": "epoch"}, {"logging_steps": 7}])
def test_an_entry_that_the_trainer_writes_later_takes_the_energy(tmp_path: Path, options: Any) -> None:
    t = trainer(tmp_path, [callback(log_every_n_steps=0)], **options)
    t.train()
    history = t.state.log_history
    own = [entry for entry in history if not {"loss", "train_loss"} & entry.keys()]
    # At step 10 of 20 there is none but ours where the Trainer logs every 7 steps.
    assert [entry["step"] for entry in own] == ([] if "logging_strategy" in options else [10])
    assert [entry["step"] for entry in history if "energy/train/joules" in entry] == [10, 20]


def test_trackers_are_told_all_the_same(tmp_path: Path) -> None:
    told: list[set[str]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            told.append(set(logs))

    trainer(tmp_path, [Tracker(), callback()], num_train_epochs=1).train()
    assert sum("energy/train/joules" in names for names in told) == 1


def test_a_trainer_that_trains_inside_a_hook_ends_no_measurement(tmp_path: Path) -> None:
    energy = callback()

    class Inner(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            trainer(tmp_path / "inner", [energy], samples=8, num_train_epochs=1, on_wait=lambda _: time.sleep(0.05)).train()

    trainer(tmp_path, [energy, Inner()]).train()
    record = energy.record
    assert (record.run.status, record.stages["train"].samples) == ("completed", 80)
    assert not energy.meter.running
    # The inner trainings' energy is not that of the outer one's samples.
    assert record.stages["other"].seconds > 2 * 8 * 0.05


class OwnLoop(Trainer):
    """A Trainer whose training is its user's, as of reinforcement learning."""

    def train(self, *_: Any, **__: Any) -> None:
        handler = self.callback_handler
        self.control = handler.on_train_begin(self.args, self.state, self.control)
        for inputs in self.get_train_dataloader():
            self.control = handler.on_step_begin(self.args, self.state, self.control)
            self.model(**inputs)
            self.state.global_step += 1
            self.control = handler.on_step_end(self.args, self.state, self.control)
        self.control = handler.on_train_end(self.args, self.state, self.control)


class Renamed(OwnLoop):
    """The same under a name that is no method of the Trainer's."""

    def fit(self) -> None:
        OwnLoop.train.__wrapped__(self) if hasattr(OwnLoop.train, "__wrapped__") else OwnLoop.train(self)


@pytest.mark.parametrize("run", [OwnLoop.train, Renamed.fit], ids=["train", "fit"])
def test_a_training_loop_of_the_users_own_is_measured(tmp_path: Path, run: Any) -> None:
    energy = callback()
    t = trainer(tmp_path, [energy], kind=Renamed)
    run(t)
    record = energy.record
    assert (record.run.status, record.stages["train"].batches) == ("completed", 10)
    run(t)
    assert (energy.record.run.status, energy.record.stages["train"].batches) == ("completed", 20)


class ByItsClass(Trainer):
    """Calls what it overrides in a way that an heir would turn into a loop without end."""

    def evaluate(self, *args: Any, **options: Any) -> Any:
        return super(self.__class__, self).evaluate(*args, **options)

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        return super(type(self), self).get_batch_samples(*args, **options)

    def prediction_step(self, *args: Any, **options: Any) -> Any:
        return super(type(self), self).prediction_step(*args, **options)

    def train(self, *args: Any, **options: Any) -> Any:
        return super(type(self), self).train(*args, **options)


class Registered(Trainer):
    """Has a registry of its heirs, which each name a task."""

    heirs: ClassVar[list[type]] = []

    def __init_subclass__(cls, *, task: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        Registered.heirs.append(cls)


class Tagger(Registered, task="tagging"):
    """One of them."""


class Closed(Trainer):
    """Lets nobody set what begins with two underscores."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        super().__setattr__(name, value)


@pytest.mark.parametrize("kind", [ByItsClass, Tagger, Closed])
def test_a_trainer_keeps_its_class_and_each_batch_counts_once(tmp_path: Path, kind: Any) -> None:
    energy = callback(carbon_intensity=1)
    t = trainer(tmp_path, [energy], kind=kind, validation=10)
    t.train()
    t.predict(Sentences(10))
    assert type(t) is kind
    assert Registered.heirs == [Tagger]
    stages = energy.record.stages
    assert energy.record.run.status == "completed"
    counts = {name: (stage.batches, stage.samples) for name, stage in stages.items() if name != "other"}
    assert counts == {"train": (20, 80), "validate": (4, 20), "predict": (2, 10)}
    assert energy.record.warnings == []


def test_a_class_that_may_not_be_changed_is_told(tmp_path: Path) -> None:
    class Sealed(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            raise TypeError(name)

    class Own(Trainer, metaclass=Sealed):
        def evaluate(self, *args: Any, **options: Any) -> Any:
            return self.evaluation_loop(self.get_eval_dataloader(), "mine").metrics

    energy = callback()
    trainer(tmp_path, [energy], kind=Own, validation=5).train()
    assert energy.record.stages["train"].samples == 80
    assert any(warning.startswith("Own does not let its methods evaluate be observed") for warning in energy.record.warnings)


def test_a_callback_that_fails_on_an_entry_of_energy_costs_no_log(tmp_path: Path) -> None:
    class Reads(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "train_runtime" not in logs:
                logs["loss"]

    energy = callback()
    t = trainer(tmp_path, [Reads(), energy], logging_strategy="epoch")
    t.train()
    assert ["loss" in entry for entry in t.state.log_history] == [True, True, False]
    (warning,) = (text for text in energy.record.warnings if "KeyError" in text)
    assert warning.startswith(
        "A callback or a tracker of the Trainer failed when EnergyCallback logged to it (KeyError: 'loss'"
    )
