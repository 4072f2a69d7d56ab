"""Nothing of the user's is held or kept alive: models, data, progress bars, what callers have."""

import gc
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from frameworks.keras_loops import AroundBatch, net, nothing, on_one_backend

from ml_energy_callbacks.keras import EnergyBudget, EnergyCallback

pytestmark = pytest.mark.usefixtures("_no_collection")


@pytest.fixture
def _no_collection() -> Any:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Data(keras.utils.PyDataset):
    """Batches of a user's."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return np.zeros((4, 8), "float32"), np.zeros((4, 1), "float32")


@on_one_backend
@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow keeps a PyDataset, whatever the callbacks")
@pytest.mark.parametrize("fails", [False, True])
def test_data_end_with_their_last_reference(tmp_path: Path, *, fails: bool) -> None:
    def fail(_: int) -> None:
        if fails:
            message = "mine"
            raise RuntimeError(message)

    def fit(energy: EnergyCallback, budget: EnergyBudget) -> Any:
        data = energy.watch(Data())
        try:
            net().fit(data, callbacks=[energy, budget, AroundBatch(nothing, fail)], verbose=0)
        except RuntimeError as error:
            error.__traceback__ = None
        return weakref.ref(data)

    energy, budget = EnergyCallback(verbose=False), EnergyBudget(kwh=1)
    seen = fit(energy, budget)
    assert energy.record.run.status == ("failed" if fails else "completed")
    gc.collect(0)  # Keras's own cycles of its iterator
    assert seen() is None


@on_one_backend
def test_the_progress_bar_is_short_and_has_no_attribute_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    bar = keras.callbacks.ProgbarLogger()
    net().fit(Data(), callbacks=[EnergyCallback(verbose=False), bar])
    shown = capsys.readouterr().out
    assert "Energy: " in shown
    assert "energy/" not in shown
    assert "on_epoch_end" not in vars(bar)  # a method of it there would be a cycle with the model


@on_one_backend
def test_a_loop_of_the_users_own_keeps_its_variables_to_itself() -> None:
    class Held:
        pass

    def loop(energy: EnergyCallback) -> Any:
        held = Held()
        seen = weakref.ref(held)
        hooks = keras.callbacks.CallbackList([energy], model=net())
        hooks.on_train_begin()
        del held
        assert seen() is None
        hooks.on_train_end()
        return seen

    loop(EnergyCallback(verbose=False))


def test_a_layer_that_is_a_trainer_is_measured(tmp_path: Path) -> None:
    trainer = keras.Model.__bases__[0]  # it has no public name
    layer = type("Trained", (trainer, keras.layers.Dense), {"__init__": keras.layers.Dense.__init__})(1)
    trainer.__init__(layer)
    layer.compile("sgd", "mse")
    energy = EnergyCallback(output_dir=tmp_path, verbose=False)
    layer.fit(np.zeros((12, 8), "float32"), np.zeros((12, 1), "float32"), batch_size=4, callbacks=[energy], verbose=0)
    assert (energy.record.run.status, energy.record.stages["train"].batches) == ("completed", 3)
