"""Keras's loops, on the backend that Keras is set to."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from frameworks.equality import plain, random_states
from ml_energy_callbacks.keras import EnergyBudget, EnergyCallback, EnergyEarlyStopping

BACKEND = keras.backend.backend()
FIRST_BACKEND = "torch"
"""On this one all is tested in a quick run: it compiles nothing, and a fit is the quickest on it."""

COUNTED_BY = {"torch": "torch operators", "jax": "XLA cost analysis"}.get(BACKEND)
FLOPS = (2 * 16, 16)
"""Those of the products of matrices for a sample in ``trained``, in training and in validation."""

FRAMEWORK = "keras"
MODEL = r"net(_\d+)?"
MODULES = ("keras", BACKEND)
REFUSES_TWO = "two EnergyCallbacks"

__all__ = ["EnergyBudget", "EnergyCallback", "EnergyEarlyStopping"]


def on_one_backend(test: Any) -> Any:
    """Let a test of what is the same on each backend run on the first one alone, and on the others in a full run."""
    return test if BACKEND == FIRST_BACKEND else pytest.mark.full(test)


_OTHERS = {"data-loader": "torch", "tf-data": "tensorflow", "tf-data-known": "tensorflow", "tf-data-unknown": "tensorflow"}
"""Which package brings a kind of data."""


def kinds(names: Iterable[str], *left_out: str) -> list[Any]:
    """Return parameters for kinds of data; those of a package that is not the backend go to one worker, which imports it."""
    return [
        pytest.param(name, marks=[pytest.mark.xdist_group("other")] if _OTHERS.get(name, BACKEND) != BACKEND else [])
        for name in names
        if name not in left_out
    ]


class Net(keras.Sequential):
    """A small network that calls a function inside each batch of training, where that is not None."""

    inside: Callable[[int], None] | None = None
    count = 0

    def train_step(self, *args: Any) -> Any:
        """Train on a batch."""
        if self.inside is not None:
            self.inside(self.count)
            self.count += 1
        return super().train_step(*args)


class AroundBatch(keras.callbacks.Callback):
    """Calls a function before each batch of training, and another after it."""

    def __init__(self, before: Callable[[], None], after: Callable[[int], None]) -> None:
        super().__init__()
        self.before, self.after = before, after

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.before()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.after(batch)


class OnEpoch(keras.callbacks.Callback):
    """Calls a function with what is logged at the end of each epoch of training."""

    def __init__(self, seen: Callable[[dict[str, float]], None]) -> None:
        super().__init__()
        self.seen = seen

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen(dict(logs or {}))


def nothing(*_: Any) -> None:
    """Do nothing."""


class Waiting(keras.utils.PyDataset):
    """Calls a function before each batch."""

    def __init__(self, samples: int, batch_size: int, on_wait: Callable[[int], None]) -> None:
        super().__init__()
        self.samples, self.batch_size, self.on_wait = samples, batch_size, on_wait

    def __len__(self) -> int:
        return math.ceil(self.samples / self.batch_size)

    def __getitem__(self, index: int) -> Any:
        self.on_wait(index)
        return arrays(min(self.batch_size, self.samples - index * self.batch_size))


def net(*, eager: bool = False) -> Net:
    """Return a network for vectors of 8 numbers."""
    model = Net([keras.layers.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=eager)
    return model


def arrays(samples: int) -> tuple[Any, Any]:
    """Return random vectors with a target."""
    return np.random.default_rng(0).random((samples, 8), "float32"), np.zeros((samples, 1), "float32")


def in_the_loop(source: Waiting) -> Any:
    """Return the data such that a batch is fetched when it is wanted, not ahead of it."""
    if BACKEND != "tensorflow":
        return source
    import tensorflow as tf  # noqa: PLC0415 - of this backend alone

    def batches() -> Iterator[Any]:
        return (source[index] for index in range(len(source)))

    kinds = (tf.TensorSpec((None, 8)), tf.TensorSpec((None, 1)))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=kinds)
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    dataset = dataset.with_options(options)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(source)))


class Loops:
    """A model, and what can be done with it."""

    def __init__(self, folder: Path) -> None:
        """Write what the framework writes into this folder."""
        self.folder = folder
        self.model = net()

    def fit(
        self,
        callbacks: list[Any],
        *,
        samples: int = 40,
        batch_size: int = 4,
        validation: int = 0,
        epochs: int = 2,
        on_wait: Callable[[int], None] | None = None,
        on_data: Callable[[], None] = nothing,
        on_batch: Callable[[int], None] | None = None,
        after_batch: Callable[[int], None] = nothing,
        backup: bool = False,
    ) -> None:
        """Train; validation data come in batches of 5."""
        if on_batch is not None:
            self.model = net(eager=True)
            self.model.inside = on_batch if BACKEND == "torch" else lambda index: (on_data(), on_batch(index))[1]
        # With torch the data are there when a batch begins; else they are when the model has them, and not a moment before.
        begun = on_data if BACKEND == "torch" else nothing
        x, y = arrays(samples)
        source: dict[str, Any] = {"x": x, "y": y, "batch_size": batch_size}
        if on_wait is not None:
            energy = next(callback for callback in callbacks if isinstance(callback, EnergyCallback))
            source = {"x": energy.watch(in_the_loop(Waiting(samples, batch_size, on_wait))), "shuffle": False}
        further: list[Any] = [AroundBatch(begun, after_batch)]
        if backup:
            further.append(keras.callbacks.BackupAndRestore(self.folder / "backup"))
        self.model.fit(
            **source,
            epochs=epochs,
            validation_data=arrays(validation) if validation else None,
            validation_batch_size=5 if validation else None,
            callbacks=[*callbacks, *further],
            verbose=0,
        )

    def test(self, callbacks: list[Any], samples: int, batch_size: int) -> None:
        """Evaluate."""
        self.model.evaluate(*arrays(samples), batch_size=batch_size, callbacks=callbacks, verbose=0)

    def predict(self, callbacks: list[Any], samples: int, batch_size: int) -> None:
        """Predict."""
        self.model.predict(arrays(samples)[0], batch_size=batch_size, callbacks=callbacks, verbose=0)


def record_folder(folder: Path) -> dict[str, Any]:
    """Return the options that let the record go into a folder."""
    return {"output_dir": folder}


def _backend_state() -> Any:
    """Return the state of the backend's own random generator, where it has one."""
    if BACKEND != "torch":
        return None
    import torch  # noqa: PLC0415 - of this backend alone

    return plain(torch.get_rng_state())


def trained(folder: Path, callbacks: list[Any]) -> dict[str, Any]:
    """Train from a seed, and return all that came of it, but for what is ours."""
    keras.utils.set_random_seed(1)
    order: list[int] = []
    layers = [keras.layers.Input((8,)), keras.layers.Dropout(0.3), keras.layers.Dense(1, name="dense")]
    model = keras.Sequential(layers)
    model.compile("adam", "mse")
    keeping = keras.callbacks.ModelCheckpoint(folder / "last.keras")
    history = model.fit(
        Waiting(40, 4, order.append),
        shuffle=True,
        epochs=2,
        validation_data=arrays(8),
        callbacks=[*callbacks, keeping],
        verbose=0,
    ).history
    saved = keras.saving.load_model(folder / "last.keras")
    return {
        "weights": [plain(np.asarray(weight)) for weight in model.get_weights()],
        "optimiser": [plain(keras.ops.convert_to_numpy(variable)) for variable in model.optimizer.variables],
        "seeds": [plain(keras.ops.convert_to_numpy(variable)) for variable in model.non_trainable_variables],
        "order": order,
        "checkpoint": [plain(keras.ops.convert_to_numpy(variable)) for variable in saved.variables + saved.optimizer.variables],
        "random": {**random_states(), "backend": _backend_state()},
        "history": {name: values for name, values in history.items() if not name.startswith("energy/")},
    }
