"""The number of samples that a Keras loop has processed, from Keras's own count or from the shapes of predictions."""

import math
import threading
from collections.abc import Mapping
from typing import Any

import keras

from ml_energy_callbacks.frameworks.batch_size import first_length
from ml_energy_callbacks.keras import internals
from ml_energy_callbacks.keras.gate import Gate
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.meter.points import Point
from ml_energy_callbacks.meter.unforeseen import pass_users_error
from ml_energy_callbacks.metrics import Stage

_EXACT = 2.0**24
"""Beyond this a count in single precision is no longer exact."""


class SampleCounter:
    """Determines the number of samples in the batches of a stage, and adds it to the meter.

    In training and evaluation Keras counts the samples itself, but reading its count waits for the GPU. Most batches therefore
    end with an unknown size, and the count is read from time to time for all of them. If Keras has no count, the sizes of
    watched data are used.

    Args:
        meter: The meter.
        stage: The stage.
        model: The model that runs; None if none does.
        since: The point at which it begins.
        thread: The thread of the measured loop: Keras's count is read only there, as other threads may read it too late.
        source: The gate of the watched data, or None if the data are not watched.
        sized_by_user: Whether the user's ``batch_size_fn`` sizes the watched batches; no other sizes are then used.
    """

    def __init__(
        self,
        meter: EnergyMeter,
        stage: Stage,
        model: Any,
        *,
        since: Point,
        thread: int | None,
        source: Gate | None,
        sized_by_user: bool,
    ) -> None:
        self._meter = meter
        self._stage = stage
        self._model = model
        self._thread = thread
        self._source = source
        self._sized_by_user = sized_by_user
        self._since = since
        self._lost = False
        self._late = False
        self._watched: int | None = 0

    def begin_epoch(self, since: Point) -> None:
        """Begin an epoch at this point, where Keras starts a new count."""
        self._since = since
        self._lost = False
        self._watched = 0

    def lose_count(self) -> None:
        """Stop reading Keras's count in this epoch: the metrics of the model are about to be reset."""
        self._lost = True

    def size_of_batch(self, batches: int, size: int | None, watched: int | None, *, read_count: bool) -> int | None:
        """Return the samples of the batches that end now, or None to count them later; called once for each end of a batch.

        Args:
            batches: Number of batches, which ran as one.
            size: Their number of samples from their outputs, or None if it is unknown.
            watched: The same of the watched data.
            read_count: Whether to read Keras's count for these batches alone, as for those that compile.
        """
        if self._source is not None and self._sized_by_user:
            size = watched
        if size is None and read_count:
            size = self._new_samples(batches)
        if size is not None or self._source is None or self._sized_by_user:
            return size
        if read_count:
            return watched
        self._watched = None if watched is None or self._watched is None else self._watched + watched
        return None

    def count_after_batch(self) -> None:
        """Count, unless Keras calls the end of a batch in another thread, as for a callback that was not passed in a list."""
        self._late = threading.get_ident() != self._thread
        if not self._late:
            self.count()

    def count_within_batch(self) -> None:
        """Count, unless another thread may still have to call the end of the previous batch."""
        if not self._late:
            self.count()

    def count(self, logs: Mapping[str, float] | None = None) -> None:
        """Count the samples of the batches that ended with an unknown size, if they are known now.

        Args:
            logs: The epoch's logs, at its end; they show whether Keras's count is still that of the whole epoch.
        """
        own = self._meter.counts(self._stage, self._since)
        if not own.unsized or (self._sized_by_user and self._source is not None):
            return
        seen = self._seen(own.batches) if _loss_agrees(self._model, logs) else None
        if seen is not None and seen < own.samples + own.unsized:
            self._lost, seen = True, None  # the count decreased, so the metrics were reset
        if seen is not None:
            self._meter.add_samples(self._stage, seen - own.samples, own.unsized)
        elif self._source is not None and self._watched:
            self._meter.add_samples(self._stage, self._watched, own.unsized)
        else:
            return
        self._watched = 0

    def _new_samples(self, batches: int) -> int | None:
        """Return the samples of the batches that end now; None unless those of all batches before them are known."""
        own = self._meter.counts(self._stage, self._since)
        seen = None if own.unsized else self._seen(own.batches + batches)
        return None if seen is None or seen <= own.samples else seen - own.samples

    def _seen(self, batches: int) -> int | None:
        """Return Keras's count of the epoch's samples after this many batches; None if there is no reliable count."""
        if self._model is None or self._stage == "predict" or self._lost or threading.get_ident() != self._thread:
            return None
        return _samples_seen(self._model, batches)


def _samples_seen(model: keras.Model, batches: int) -> int | None:
    """Return the number of samples since the model's metrics were reset; None if Keras does not know it.

    Keras weights its running mean of the loss by the number of samples. A model whose own ``train_step`` or ``test_step`` does
    not update that mean has no count, and one that updates it without weights counts batches.

    Args:
        model: The model.
        batches: Number of batches since then.
    """
    value = internals.weight_of_loss(model)
    if value is None:
        return None
    own_step = any(not getattr(type(model), name).__module__.startswith("keras.") for name in ("train_step", "test_step"))
    known = 0 < value < _EXACT and value == int(value) and not (own_step and value == batches)
    return int(value) if known else None


def _loss_agrees(model: keras.Model, logs: Mapping[str, float] | None) -> bool:
    """Return whether the model's running loss still equals that of an epoch's logs: if not, its metrics were reset since."""
    if not logs or "loss" not in logs:
        return True
    loss = internals.mean_loss(model)
    try:
        return loss is not None and math.isclose(loss, logs["loss"], rel_tol=1e-5)
    except Exception as error:  # noqa: BLE001 - another callback may have put anything there
        pass_users_error(error)
        return False


def output_length(logs: dict[str, Any] | None) -> int | None:
    """Return the number of samples of a predicted batch, from the first dimension of its first output; None if it has none.

    Keras passes a single number if the outputs contain only one.
    """
    if not logs:
        return None
    outputs = logs.get("outputs")
    if outputs is None:
        outputs = next(iter(logs.values()))
    return 1 if type(outputs) is float else first_length(outputs)


def samples_of(batch: Any) -> Any:
    """Return the array of shape (samples, ...) whose first dimension Keras uses as the batch size."""
    inputs, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return next(array for array in keras.tree.flatten(inputs) if array is not None)


def length_of(batch: Any) -> int | None:
    """Return the number of samples of a batch of data; None if it is unknown."""
    try:
        array = samples_of(batch)
    except (StopIteration, TypeError, ValueError):
        return None
    return first_length(array)
