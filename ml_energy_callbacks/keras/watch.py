"""Wrap the user's data so that their batches pass a gate; each kind keeps its type, because Keras handles types differently."""

import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.keras.gate import Gate
from ml_energy_callbacks.keras.samples import samples_of
from ml_energy_callbacks.meter.batches import whole_number

_Function = Callable[[Any], Any] | None


def watched(data: Any, gate: Gate, batch_size_fn: _Function, count_fn: _Function) -> Any:
    """Return the data, wrapped so that each batch passes the gate.

    Args:
        data: A PyDataset, tf.data.Dataset, DataLoader, generator or other iterable of batches.
        gate: The gate.
        batch_size_fn: The user's function or None, for the symbolic batches of a tf.data.Dataset.
        count_fn: The same for tokens.

    Raises:
        ConfigurationError: Data of this kind cannot be watched.
    """
    if isinstance(data, keras.utils.PyDataset):
        if data.use_multiprocessing:
            msg = "watch() cannot measure in other processes: set use_multiprocessing=False in the PyDataset, to use threads."
            raise ConfigurationError(msg)
        gate.elsewhere = gate.queued = data.workers > 1
        return _PyDataset(data, gate)
    if _is_a(data, "tensorflow", "data.Dataset"):
        gate.elsewhere = True
        return _tf_dataset(data, gate, batch_size_fn, count_fn)
    if _is_a(data, "torch", "utils.data.DataLoader"):
        return _data_loader(data, gate)
    if hasattr(data, "shape") or isinstance(data, (str, bytes, dict, tuple)) or not isinstance(data, Iterable):
        msg = (
            f"watch() requires an iterable of batches, such as a PyDataset, tf.data.Dataset, DataLoader or generator, "
            f"not {type(data).__name__}. Arrays need no watching: pass them to fit() directly."
        )
        raise ConfigurationError(msg)
    if hasattr(data, "__len__"):
        return _Sized(data, gate)
    gate.resumes = True
    return gate.iterate(data)


def _is_a(data: Any, package: str, name: str) -> bool:
    """Return whether the data are an instance of a package's class; a package that was not imported cannot have made them."""
    kind: Any = sys.modules.get(package)
    for part in name.split("."):
        kind = getattr(kind, part, None)
    return isinstance(kind, type) and isinstance(data, kind)


class _PyDataset(keras.utils.PyDataset):
    """A wrapper of a PyDataset, whose items pass a gate."""

    def __init__(self, source: keras.utils.PyDataset, gate: Gate) -> None:
        super().__init__(workers=source.workers, use_multiprocessing=False, max_queue_size=source.max_queue_size)
        self._source = source
        self._gate = gate

    def __getitem__(self, index: int) -> Any:
        ticket = self._gate.ask()
        item = self._source[index]
        self._gate.hand_over(ticket, self._gate.size(item))
        return item

    @property
    def num_batches(self) -> int | None:
        number: int | None = self._source.num_batches
        return number

    def on_epoch_begin(self) -> None:
        if not self._gate.queued:
            self._gate.open()
        self._source.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._source.on_epoch_end()


class _Sized(keras.utils.PyDataset):
    """A PyDataset of any iterable that has a length: Keras reads the length only of a PyDataset."""

    def __init__(self, source: Any, gate: Gate) -> None:
        super().__init__()
        self._source = source
        self._gate = gate
        self._iterator: Iterator[Any] = iter(())
        self.on_epoch_begin()

    def __getitem__(self, index: int) -> Any:
        try:
            item = next(self._iterator)
        except StopIteration:  # Keras has already read the first batches
            self.on_epoch_begin()
            item = next(self._iterator)
        return keras.tree.map_structure(np.asarray, item)

    @property
    def num_batches(self) -> int:
        return len(self._source)

    def on_epoch_begin(self) -> None:
        self._iterator = self._gate.iterate(self._source)


def _tf_dataset(source: Any, gate: Gate, batch_size_fn: _Function, count_fn: _Function) -> Any:
    import tensorflow as tf  # noqa: PLC0415 - it made the data, so it is already imported

    def mark(index: Any, samples: Any, tokens: Any) -> None:
        if index == 0:
            gate.open()
        gate.hand_over(gate.ask(), (int(samples), None if count_fn is None else whole_number(tokens)))

    def length(item: Any) -> Any:
        return tf.shape(samples_of(item))[0]

    def number(name: str, fn: Callable[[Any], Any], item: Any, advice: str) -> Any:
        try:
            return tf.cast(fn(item), tf.int64)
        except Exception as error:
            msg = f"{name} failed ({error!r}): a tf.data.Dataset passes it symbolic tensors; return a tensor, such as {advice}."
            raise ConfigurationError(msg) from error

    def pass_gate(index: Any, item: Any) -> Any:
        samples = number("batch_size_fn", batch_size_fn or length, item, "tf.shape(batch[0])[0]")
        tokens = 0 if count_fn is None else number("count_fn", count_fn, item, "tf.size(batch[0])")
        with tf.control_dependencies([tf.numpy_function(mark, [index, samples, tokens], [])]):
            return tf.nest.map_structure(lambda part: None if part is None else tf.identity(part), item)

    return source.enumerate().map(pass_gate)


def _data_loader(source: Any, gate: Gate) -> Any:
    kind: type = type(source)

    def __iter__(_: Any) -> Iterator[Any]:  # noqa: N807 - it becomes a method
        return gate.iterate(source)

    watching = types.new_class(kind.__name__, (kind,), exec_body=lambda body: body.update(__iter__=__iter__))
    loader: Any = object.__new__(watching)
    loader.__dict__.update(source.__dict__)
    return loader
