"""Every kind of data that Keras takes: batches and samples are exact, or not known."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from frameworks.keras_loops import AroundBatch, arrays, kinds, net, nothing, on_one_backend
from loads import steady

from ml_energy_callbacks.keras import EnergyCallback

BACKEND = keras.backend.backend()
SAMPLES, SIZE, BATCHES = 42, 5, 9


def pieces() -> list[tuple[Any, Any]]:
    x, y = arrays(SAMPLES)
    return [(x[i : i + SIZE], y[i : i + SIZE]) for i in range(0, SAMPLES, SIZE)]


class Indexed(keras.utils.PyDataset):
    """The batches by their index."""

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, index: int) -> Any:
        return pieces()[index]


class Listed:
    """Any iterable that knows its length."""

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[Any]:
        return iter(pieces())


def tf_data(*, known: bool) -> Any:
    tf = pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")
    if known:
        return tf.data.Dataset.from_tensor_slices(arrays(SAMPLES)).batch(SIZE)
    kinds = (tf.TensorSpec((None, 8)), tf.TensorSpec((None, 1)))
    return tf.data.Dataset.from_generator(lambda: iter(pieces()), output_signature=kinds)


def data_loader() -> Any:
    data = pytest.importorskip("torch.utils.data", reason="a DataLoader is torch's")
    torch = pytest.importorskip("torch")
    return data.DataLoader(data.TensorDataset(*(torch.from_numpy(array) for array in arrays(SAMPLES))), batch_size=SIZE)


def endless() -> Iterator[Any]:
    while True:
        yield from pieces()


# Name -> the data, and the arguments of fit that go with them.
KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "generator": (endless, {"steps_per_epoch": BATCHES}),
    "py-dataset": (Indexed, {}),
    "py-dataset-threads": (lambda: Indexed(workers=3, max_queue_size=4), {}),
    "tf-data-known": (lambda: tf_data(known=True), {}),
    "tf-data-unknown": (lambda: tf_data(known=False), {}),
    "data-loader": (data_loader, {}),
    "iterable": (Listed, {}),
}


@cache
def built(make: Callable[[], Any]) -> Any:
    """Return a model that Keras need not build, and that has compiled once for all tests."""
    model = make()
    # Else Keras takes an item to build the model from, which a queue of threads does not get back.
    model.evaluate(*arrays(1), verbose=0)
    model.train_on_batch(*arrays(1))
    return model


def fit(energy: EnergyCallback, data: Any, make: Callable[[], Any] = net, **options: Any) -> Any:
    model = built(make)
    further = {"epochs": 2, "verbose": 0, "shuffle": False, **options}
    model.fit(data, callbacks=[energy], **further)
    return energy.record.stages["train"]


@pytest.mark.filterwarnings("ignore:.*Your input ran out of data.*")
@pytest.mark.parametrize("watched", [False, True], ids=["plain", "watched"])
@pytest.mark.parametrize("kind", kinds(KINDS, "iterable"))
def test_batches_and_samples_are_exact(kind: str, watched: bool) -> None:  # noqa: FBT001 - a parameter of the test
    make, options = KINDS[kind]
    energy = EnergyCallback(verbose=False)
    data = energy.watch(make()) if watched else make()
    train = fit(energy, data, **options)
    assert (train.batches, train.samples) == (2 * BATCHES, 2 * SAMPLES)
    assert train.joules_per_sample is not None
    assert [epoch.samples for epoch in energy.record.epochs] == [SAMPLES, SAMPLES]


def test_an_iterable_that_keras_itself_does_not_take_can_be_watched() -> None:
    energy = EnergyCallback(verbose=False)
    train = fit(energy, energy.watch(Listed()))
    assert (train.batches, train.samples) == (2 * BATCHES, 2 * SAMPLES)


@pytest.mark.filterwarnings("ignore:.*Your input ran out of data.*")
def test_a_generator_that_ends_is_counted_to_its_end() -> None:
    energy = EnergyCallback(verbose=False)
    train = fit(energy, (piece for piece in pieces()), epochs=1)
    assert (train.batches, train.samples) == (BATCHES, SAMPLES)


def test_arrays_with_validation_split_and_initial_epoch() -> None:
    energy = EnergyCallback(verbose=False)
    x, y = arrays(100)
    model = net()
    model.fit(x, y, batch_size=8, validation_split=0.25, epochs=5, initial_epoch=3, callbacks=[energy], verbose=0)
    stages = energy.record.stages
    assert (stages["train"].batches, stages["train"].samples) == (2 * 10, 150)
    assert (stages["validate"].batches, stages["validate"].samples) == (2 * 4, 50)
    assert [(epoch.stage, epoch.index) for epoch in energy.record.epochs] == [
        ("validate", 3),
        ("train", 3),
        ("validate", 4),
        ("train", 4),
    ]


@pytest.mark.parametrize("kind", kinds(KINDS, "generator", "iterable"))
@pytest.mark.filterwarnings("ignore:.*Your input ran out of data.*")
def test_evaluation_and_prediction_of_every_kind(kind: str) -> None:
    make, _ = KINDS[kind]
    energy = EnergyCallback(verbose=False)
    model = built(net)
    model.evaluate(make(), callbacks=[energy], verbose=0)
    model.predict(make(), callbacks=[energy], verbose=0)
    counts = {name: (stage.batches, stage.samples) for name, stage in energy.record.stages.items() if name != "other"}
    assert counts == {"test": (BATCHES, SAMPLES), "predict": (BATCHES, SAMPLES)}


@pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses steps_per_execution with torch")
def test_batches_that_run_as_one_are_counted_each() -> None:
    energy = EnergyCallback(verbose=False)
    model = net()
    model.compile("sgd", "mse", steps_per_execution=4)
    x, y = arrays(SAMPLES)
    model.fit(x, y, batch_size=SIZE, epochs=2, callbacks=[energy], verbose=0)
    model.evaluate(x, y, batch_size=SIZE, callbacks=[energy], verbose=0)
    model.predict(x, batch_size=SIZE, callbacks=[energy], verbose=0)
    counts = {name: (stage.batches, stage.samples) for name, stage in energy.record.stages.items() if name != "other"}
    assert counts == {"train": (2 * BATCHES, 2 * SAMPLES), "test": (BATCHES, SAMPLES), "predict": (BATCHES, SAMPLES)}


@on_one_backend
def test_one_callback_without_a_list(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False, output_dir=tmp_path)
    x, y = arrays(SAMPLES)
    history = net().fit(x, y, batch_size=SIZE, callbacks=energy, verbose=0)
    assert (energy.record.stages["train"].batches, energy.record.stages["train"].samples) == (BATCHES, SAMPLES)
    assert "energy/train/watts" in history.history


class Own(keras.Sequential):
    """Trains without the mean of the loss by which Keras counts samples."""

    def train_step(self, *args: Any) -> Any:
        """Do next to nothing."""
        zero = keras.ops.zeros(())
        return ({"mine": zero}, args[0]) if BACKEND == "jax" else {"mine": zero}


def own() -> Any:
    model = Own([keras.layers.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def test_where_keras_counts_no_samples_their_number_is_none_and_not_zero() -> None:
    energy = EnergyCallback(verbose=False)
    train = fit(energy, Indexed(), own)
    assert (train.batches, train.samples, train.joules_per_sample) == (2 * BATCHES, None, None)
    assert train.joules is not None


@pytest.mark.parametrize("kind", kinds(KINDS))
@pytest.mark.filterwarnings("ignore:.*Your input ran out of data.*")
def test_watched_data_are_counted_where_keras_counts_none(kind: str) -> None:
    make, options = KINDS[kind]
    energy = EnergyCallback(verbose=False)
    train = fit(energy, energy.watch(make()), own, **options)
    assert (train.batches, train.samples) == (2 * BATCHES, 2 * SAMPLES)


@pytest.mark.parametrize("kind", kinds(KINDS))
@pytest.mark.filterwarnings("ignore:.*Your input ran out of data.*")
def test_batch_size_fn_tells_the_samples_of_watched_data(kind: str) -> None:
    make, options = KINDS[kind]

    def numbers(batch: Any) -> Any:
        if kind.startswith("tf-data"):
            return keras.ops.size(batch[0]) if BACKEND == "tensorflow" else 8 * size_of(batch[0])
        return batch[0].shape[0] * batch[0].shape[1]

    energy = EnergyCallback(verbose=False, batch_size_fn=numbers)
    train = fit(energy, energy.watch(make()), **options)
    assert (train.batches, train.samples) == (2 * BATCHES, 2 * 8 * SAMPLES)


def size_of(tensor: Any) -> Any:
    tf = pytest.importorskip("tensorflow")
    return tf.shape(tensor)[0]


@on_one_backend
def test_batch_size_fn_without_watched_data_is_said(caplog: pytest.LogCaptureFixture) -> None:
    energy = EnergyCallback(batch_size_fn=len)
    train = fit(energy, Indexed())
    assert train.samples == 2 * SAMPLES
    assert "pass the data through watch()" in caplog.text


def test_several_outputs_and_a_single_sample_are_counted() -> None:
    inputs = keras.Input((8,))
    model = keras.Model(inputs, {"a": keras.layers.Dense(1)(inputs), "b": keras.layers.Dense(2)(inputs)})
    energy = EnergyCallback(verbose=False)
    model.predict(arrays(11)[0], batch_size=5, callbacks=[energy], verbose=0)
    assert energy.record.stages["predict"].samples == 11
    one = EnergyCallback(verbose=False)
    net().predict(arrays(1)[0], callbacks=[one], verbose=0)
    assert one.record.stages["predict"].samples == 1


def test_metrics_that_somebody_resets_make_the_number_unknown_not_wrong() -> None:
    class Resetting(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.evaluate(*arrays(7), verbose=0)

    energy = EnergyCallback(verbose=False)
    model = net()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Your input ran out of data.*")
        model.fit((piece for piece in pieces()), callbacks=[Resetting(), energy], verbose=0)
    # JAX compiles for the smaller last batch, which is then counted.
    assert energy.record.stages["train"].samples == (SAMPLES if BACKEND == "jax" else None)
    known = EnergyCallback(verbose=False)
    x, y = arrays(SAMPLES)
    model.fit(x, y, batch_size=SIZE, callbacks=[Resetting(), known], verbose=0)
    assert known.record.stages["train"].samples == SAMPLES  # counted at the last batch


@pytest.mark.parametrize("ours", [False, True], ids=["unseen", "seen"])
def test_an_evaluation_in_the_middle_of_an_epoch_makes_the_number_unknown_not_wrong(ours: bool) -> None:  # noqa: FBT001
    energy = EnergyCallback(verbose=False)

    class Testing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 20:
                self.model.evaluate(*arrays(7), callbacks=[energy] if ours else None, verbose=0)

    x, y = arrays(160)
    net().fit(x, y, batch_size=4, epochs=1, validation_data=(x, y), callbacks=[energy, Testing()], verbose=0)
    stages = energy.record.stages
    assert (stages["train"].batches, stages["train"].samples) == (40, None)
    assert stages["validate"].samples == 160


class Unweighted(keras.Sequential):
    """Keeps the mean of the loss as Keras's own guide to custom steps shows it: it counts batches."""

    def train_step(self, *args: Any) -> Any:
        """Update the mean alone."""
        if BACKEND == "jax":
            state = args[0]
            metrics = self.metrics_variables
            mapping = list(zip(metrics, state[3], strict=True))
            with keras.StatelessScope(state_mapping=mapping) as scope:
                self._loss_tracker.update_state(1.0)
            return {"loss": 1.0}, (*state[:3], [scope.get_current_value(variable) for variable in metrics])
        self._loss_tracker.update_state(1.0)
        return {"loss": 1.0}


def test_a_mean_of_the_loss_that_counts_batches_is_not_taken_for_samples() -> None:
    model = Unweighted([keras.layers.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    energy = EnergyCallback(verbose=False)
    x, y = arrays(SAMPLES)
    model.fit(x, y, batch_size=SIZE, epochs=2, callbacks=[energy], verbose=0)
    assert (energy.record.stages["train"].batches, energy.record.stages["train"].samples) == (2 * BATCHES, None)


@on_one_backend
def test_another_model_that_is_evaluated_in_between_changes_nothing() -> None:
    energy, other = EnergyCallback(verbose=False), net()

    class Teacher(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            other.evaluate(*arrays(7), callbacks=[energy], verbose=0)

    x, y = arrays(SAMPLES)
    net().fit(x, y, batch_size=SIZE, epochs=3, callbacks=[energy, Teacher()], verbose=0)
    stages = energy.record.stages
    assert (stages["train"].samples, stages["test"].samples) == (3 * SAMPLES, 21)


@on_one_backend
def test_an_evaluation_that_fails_and_is_caught_is_left() -> None:
    energy = EnergyCallback(verbose=False)

    class Failing(keras.callbacks.Callback):
        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            raise ValueError

    class Testing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            with contextlib.suppress(ValueError):
                self.model.evaluate(*arrays(7), callbacks=[energy, Failing()], verbose=0)

    x, y = arrays(SAMPLES)
    model = net()
    model.fit(x, y, batch_size=SIZE, epochs=3, callbacks=[Testing(), energy], verbose=0)
    record = energy.record
    assert record.run.status == "completed"
    assert (record.stages["train"].batches, record.stages["train"].samples) == (3 * BATCHES, 3 * SAMPLES)
    assert len(model.history.history["energy/train/watts"]) == 3


@on_one_backend
def test_an_evaluation_within_a_users_callback_is_a_test_of_its_own() -> None:
    energy = EnergyCallback(verbose=False)

    class Testing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.evaluate(*arrays(7), batch_size=2, callbacks=[energy], verbose=0)

    x, y = arrays(SAMPLES)
    net().fit(x, y, batch_size=SIZE, epochs=2, validation_data=(x, y), callbacks=[energy, Testing()], verbose=0)
    stages = energy.record.stages
    assert (stages["train"].samples, stages["validate"].samples, stages["test"].samples) == (2 * SAMPLES, 2 * SAMPLES, 14)
    assert energy.record.run.status == "completed"


@on_one_backend
def test_a_loop_of_the_users_own_with_kerass_list_of_callbacks(tmp_path: Path) -> None:
    model, energy = net(), EnergyCallback(verbose=False, output_dir=tmp_path)
    callbacks = keras.callbacks.CallbackList([energy], model=model, epochs=2, steps=BATCHES)

    def begin() -> None:  # a function of its own, which is gone while the loop goes on
        callbacks.on_train_begin()

    begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        for index, (x, y) in enumerate(pieces()):
            callbacks.on_train_batch_begin(index)
            model.train_on_batch(x, y)
            callbacks.on_train_batch_end(index)
        callbacks.on_epoch_end(epoch)
    callbacks.on_train_end()
    train = energy.record.stages["train"]
    assert (energy.record.run.status, train.batches) == ("completed", 2 * BATCHES)


def test_a_model_of_another_package_is_refused() -> None:
    class Stranger:
        pass

    energy = EnergyCallback(verbose=False)
    with pytest.raises(ValueError, match="is not a model of Keras 3"):
        energy.set_model(Stranger())


@pytest.mark.parametrize(
    ("data", "message"),
    [(np.zeros((4, 8)), "Arrays need no watching"), ((1, 2), "not tuple"), (5, "not int")],
    ids=["array", "tuple", "number"],
)
def test_data_that_cannot_be_watched_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnergyCallback(verbose=False).watch(data)


def test_a_py_dataset_of_processes_cannot_be_watched() -> None:
    with pytest.raises(ValueError, match="cannot measure in other processes"):
        EnergyCallback(verbose=False).watch(Indexed(workers=2, use_multiprocessing=True))


@on_one_backend
def test_hooks_around_ours_see_nothing_strange() -> None:
    seen: list[int] = []
    energy = EnergyCallback(verbose=False)
    x, y = arrays(SAMPLES)
    net().fit(x, y, batch_size=SIZE, callbacks=[AroundBatch(nothing, seen.append), energy], verbose=0)
    assert seen == list(range(BATCHES))


@pytest.mark.parametrize("kind", kinds(KINDS))
@pytest.mark.filterwarnings("ignore:.*Your input ran out of data.*")
def test_count_fn_counts_the_tokens_of_watched_data(kind: str) -> None:
    make, options = KINDS[kind]

    def tokens(batch: Any) -> Any:
        if kind.startswith("tf-data"):
            return keras.ops.size(batch[0]) if BACKEND == "tensorflow" else 8 * size_of(batch[0])
        return batch[0].shape[0] * batch[0].shape[1]

    energy = EnergyCallback(verbose=False, count_fn=tokens, backends=[steady(360.0)])
    train = fit(energy, energy.watch(make()), **options)
    assert (train.batches, train.samples, train.tokens) == (2 * BATCHES, 2 * SAMPLES, 2 * 8 * SAMPLES)
    counted = train.tokens - train.compile_tokens
    assert train.joules_per_token == pytest.approx((train.sampled_joules or 0.0) / counted)
    assert [epoch.tokens for epoch in energy.record.epochs] == [8 * SAMPLES] * 2


@on_one_backend
@pytest.mark.parametrize("nonsense", [lambda _: 1 // 0, lambda _: -3, lambda _: "6"], ids=range(3))
def test_a_count_fn_that_fails_is_one_warning(nonsense: Callable[[Any], Any]) -> None:
    calls: list[int] = []

    def count(batch: Any) -> Any:
        calls.append(1)
        return batch[0].size if len(calls) < 4 else nonsense(batch)

    energy = EnergyCallback(verbose=False, count_fn=count)
    train = fit(energy, energy.watch(Listed()))
    assert (train.batches, train.samples, train.tokens) == (2 * BATCHES, 2 * SAMPLES, None)
    assert len([text for text in energy.record.warnings if text.startswith("J/token is unknown, as count_fn ")]) == 1
    assert len(calls) == 4  # it is not asked again


@on_one_backend
def test_count_fn_without_watched_data_is_said() -> None:
    energy = EnergyCallback(verbose=False, count_fn=len)
    train = fit(energy, Indexed())
    assert (train.samples, train.tokens) == (2 * SAMPLES, None)
    assert any(warning.startswith("count_fn is not used in train, as Keras") for warning in energy.record.warnings)
