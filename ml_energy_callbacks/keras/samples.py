"""How many samples a Keras loop has seen: what Keras itself counts, or the shapes of what it predicts."""

import math
from collections.abc import Mapping
from typing import Any

import keras

from ml_energy_callbacks.frameworks.batch_size import first_length
from ml_energy_callbacks.keras import internals

_EXACT = 2.0**24
"""Beyond this a count in single precision is no longer exact."""


def samples_seen(model: keras.Model, batches: int) -> int | None:
    """Return how many samples passed since the model's metrics were reset; None where Keras does not know.

    Keras weighs its running mean of the loss with the number of samples. A model whose own ``train_step`` or ``test_step``
    does not keep that mean has no count, and one that keeps it without weights counts batches.

    Args:
        model: The model.
        batches: Batches that passed since.
    """
    value = internals.weight_of_loss(model)
    if value is None:
        return None
    own_step = any(not getattr(type(model), name).__module__.startswith("keras.") for name in ("train_step", "test_step"))
    known = 0 < value < _EXACT and value == int(value) and not (own_step and value == batches)
    return int(value) if known else None


def loss_agrees(model: keras.Model, logs: Mapping[str, float] | None) -> bool:
    """Return whether the model's running loss is still that of an epoch's logs: else its metrics were reset since."""
    if not logs or "loss" not in logs:
        return True
    loss = internals.mean_loss(model)
    try:
        return loss is not None and math.isclose(loss, logs["loss"], rel_tol=1e-5)
    except Exception:  # noqa: BLE001 - another callback may have put anything there
        return False


def output_length(logs: dict[str, Any] | None) -> int | None:
    """Return the number of samples of a predicted batch, from its outputs' first dimension; None where there is none.

    Keras gives one number where the outputs hold just one.
    """
    if not logs:
        return None
    outputs = logs.get("outputs")
    if outputs is None:
        outputs = next(iter(logs.values()))
    return 1 if type(outputs) is float else first_length(outputs)


def samples_of(batch: Any) -> Any:
    """Return the array of shape (samples, ...) whose first dimension Keras takes for the batch's size."""
    inputs, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return next(array for array in keras.tree.flatten(inputs) if array is not None)
