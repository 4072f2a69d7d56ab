"""Batch size inference: the number of samples in a batch, from the shapes of its arrays; None when in doubt.

Batches are the user's objects, and their attributes may raise anything, as ``shape`` of torch's nested tensors does: that is
doubt as well.
"""

from collections.abc import Mapping
from typing import Any

from ml_energy_callbacks.meter.unforeseen import pass_users_error

_MOST_LEAVES = 16
_IMAGE_DIMENSIONS = 3


def infer_batch_size(batch: Any, expected: int | None = None, *, last: bool = False) -> int | None:  # noqa: ANN401
    """Return the number of samples in a batch, or None when in doubt.

    Args:
        batch: An array of shape (samples, ...), or a list, tuple or mapping of such, nested or not. Anything with a
            ``shape`` is an array.
        expected: Batch size that the data loader was set to, or None if it is unknown. A batch of another size is in doubt,
            unless it is smaller and the last one.
        last: Whether this is the last batch.
    """
    shapes: list[tuple[int, ...]] = []
    try:
        if not _collect(batch, shapes) or not shapes:
            return None
    except Exception as error:  # noqa: BLE001 - see above
        pass_users_error(error)
        return None
    size = shapes[0][0]
    if any(shape[0] != size for shape in shapes):
        return None
    if expected is not None:
        return size if size == expected or (last and size < expected) else None
    # If the loader's batch size is unknown, several arrays of one shape may be a batch, or each a sample (a list of images).
    alike = len(shapes) > 1 and len(set(shapes)) == 1
    return None if alike and len(shapes[0]) >= _IMAGE_DIMENSIONS else size


def first_length(batch: Any) -> int | None:  # noqa: ANN401
    """Return the length of the first array of a batch, in well under a microsecond; None if there is no array.

    Only a batch whose length differs from the last one's has to be passed to :func:`infer_batch_size`.
    """
    kind = type(batch)
    if kind is list or kind is tuple:
        batch = batch[0] if batch else None
    elif kind is dict:
        batch = next(iter(batch.values()), None)
    try:
        return batch.shape[0]  # type: ignore[no-any-return]
    except Exception as error:  # noqa: BLE001 - see above
        pass_users_error(error)
        return None


def _collect(batch: Any, shapes: list[tuple[int, ...]]) -> bool:  # noqa: ANN401
    """Append the shapes of the arrays in a batch; return False if the batch contains anything else."""
    shape = getattr(batch, "shape", None)
    if shape is not None:
        if not shape or len(shapes) >= _MOST_LEAVES:
            return False
        shapes.append(tuple(shape))
        return True
    if isinstance(batch, Mapping):
        batch = list(batch.values()) if len(batch) <= _MOST_LEAVES else None
    if not isinstance(batch, (list, tuple)) or len(batch) > _MOST_LEAVES:
        return False
    return all(_collect(part, shapes) for part in batch)
