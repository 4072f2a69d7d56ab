"""Compiling is a phase of its own, so that it does not spoil the cost of a sample."""

from pathlib import Path
from typing import Any

import keras
import pytest
from frameworks.keras_loops import arrays, net

from ml_energy_callbacks import load_record
from ml_energy_callbacks.keras import EnergyCallback

BACKEND = keras.backend.backend()
compiles = pytest.mark.skipif(BACKEND == "torch", reason="Keras compiles nothing with torch unless asked to")


def fit(energy: EnergyCallback, model: Any, samples: int = 43, **options: Any) -> None:
    x, y = arrays(samples)
    model.fit(x, y, batch_size=5, callbacks=[energy], verbose=0, **options)


@compiles
def test_the_first_batch_of_a_function_and_the_first_smaller_one_compile(tmp_path: Path) -> None:
    model, energy = net(), EnergyCallback(verbose=False, output_dir=tmp_path)
    fit(energy, model, epochs=3)
    train = energy.record.stages["train"]
    assert (train.samples, train.compile_samples) == (3 * 43, 5 + 3)
    assert (train.phases["compile"].seconds or 0) > 5 * (train.phases["step"].seconds or 0) / 25
    # Both are left out of the cost of a sample.
    with_all = (train.joules or 0) / 129
    assert train.joules_per_sample is not None
    assert train.joules_per_sample < with_all
    assert load_record(tmp_path).stages["train"] == train


@compiles
def test_a_model_that_has_compiled_does_not_compile_again() -> None:
    model = net()
    fit(EnergyCallback(verbose=False), model)
    again = EnergyCallback(verbose=False)
    fit(again, model)
    assert "compile" not in again.record.stages["train"].phases
    model.compile("sgd", "mse")
    anew = EnergyCallback(verbose=False)
    fit(anew, model)
    assert anew.record.stages["train"].compile_samples == 8


@compiles
def test_a_last_batch_that_is_known_to_be_full_does_not_compile() -> None:
    energy = EnergyCallback(verbose=False)
    fit(energy, net(), samples=45)
    assert energy.record.stages["train"].compile_samples == 5


@compiles
def test_each_stage_has_its_own_function() -> None:
    model, energy = net(), EnergyCallback(verbose=False)
    x, y = arrays(42)
    fit(energy, model, validation_data=(x, y), validation_batch_size=5)
    model.evaluate(x, y, batch_size=5, callbacks=[energy], verbose=0)
    model.predict(x, batch_size=5, callbacks=[energy], verbose=0)
    found = {name: stage.compile_samples for name, stage in energy.record.stages.items() if name != "other"}
    assert found == {"train": 8, "validate": 7, "test": 0, "predict": 7}


@pytest.mark.skipif(BACKEND != "jax", reason="JAX alone tells that it compiles")
def test_with_jax_a_batch_of_a_new_shape_is_found_wherever_it_comes() -> None:
    model, energy = net(), EnergyCallback(verbose=False)
    fit(EnergyCallback(verbose=False), model)
    sizes = [5, 5, 4, 5, 3, 2, 5]

    def batches() -> Any:
        for size in sizes:
            yield arrays(size)

    model.fit(batches(), steps_per_epoch=len(sizes), callbacks=[energy], verbose=0)
    train = energy.record.stages["train"]
    assert (train.samples, train.compile_samples) == (sum(sizes), 4 + 2)  # 5 and 3 were compiled before
    x, y = arrays(9)
    model.evaluate(x, y, batch_size=6, callbacks=[energy], verbose=0)
    model.predict(x, batch_size=7, callbacks=[energy], verbose=0)
    assert energy.record.stages["test"].compile_samples == 9
    assert energy.record.stages["predict"].compile_samples == 9


@pytest.mark.skipif(BACKEND != "jax", reason="JAX alone tells that it compiles")
def test_with_jax_nothing_is_compiled_outside_the_phase() -> None:
    from jax import monitoring  # noqa: PLC0415 - of this backend alone

    model, energy = net(), EnergyCallback(verbose=False)
    phases: list[str | None] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            phases.append(energy._meter.phase)

    class Inside(keras.callbacks.Callback):
        inside = False

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            monitoring.register_event_duration_secs_listener(listen)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            monitoring.unregister_event_duration_listener(listen)

    x, y = arrays(43)
    model.fit(x, y, batch_size=5, epochs=3, callbacks=[energy, Inside()], verbose=0)
    assert phases
    assert set(phases) == {"compile"}


def test_where_nothing_compiles_there_is_no_such_phase() -> None:
    energy = EnergyCallback(verbose=False)
    fit(energy, net(eager=BACKEND == "tensorflow"))
    if BACKEND != "jax":
        assert "compile" not in energy.record.stages["train"].phases


@pytest.mark.skipif(BACKEND != "jax", reason="only with JAX the model's variables lag behind within a loop")
def test_with_jax_the_state_is_not_synchronised_at_each_batch() -> None:
    model, energy = net(), EnergyCallback(verbose=False)
    fit(energy, model)
    syncs: list[int] = []
    sync = model.jax_state_sync
    model.jax_state_sync = lambda: (syncs.append(1), sync())
    fit(energy, model, samples=500, epochs=2)
    # Keras's own: at the end of each epoch and of the fit.
    assert len(syncs) <= 5
    assert energy.record.stages["train"].samples == 43 + 1000
