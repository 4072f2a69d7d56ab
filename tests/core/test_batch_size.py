"""The number of samples in a batch, or None when in doubt."""

from types import SimpleNamespace
from typing import Any

import pytest

from ml_energy_callbacks.frameworks.batch_size import first_length, infer_batch_size


def array(*shape: int) -> Any:
    return SimpleNamespace(shape=shape)


@pytest.mark.parametrize(
    ("batch", "expected", "last", "size"),
    [
        (array(4, 8), None, False, 4),
        ([array(4, 3, 8, 8), array(4)], None, False, 4),
        ({"x": array(5, 2), "y": [array(5), array(5, 1)]}, None, False, 5),
        ([array(4, 8), array(3)], None, False, None),
        ([array(3, 8, 8)] * 8, None, False, None),
        ([array(20, 8, 5)], 8, False, None),
        ([array(8, 5)], 8, False, 8),
        ([array(3, 5)], 8, False, None),
        ([array(3, 5)], 8, True, 3),
        ([array(4), "text"], None, False, None),
        (None, None, False, None),
        ([array()], None, False, None),
        ([1.0] * 100_000, None, False, None),
    ],
)
def test_size(batch: Any, expected: int | None, last: bool, size: int | None) -> None:  # noqa: FBT001
    assert infer_batch_size(batch, expected, last=last) == size


class Strange:
    """An array whose attributes raise."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def shape(self) -> Any:
        raise self._error


@pytest.mark.parametrize(
    "error", [RuntimeError("nested"), NotImplementedError(), ValueError(), MemoryError(), RecursionError()]
)
def test_whatever_a_batch_raises_its_size_is_unknown(error: Exception) -> None:
    for batch in (Strange(error), [Strange(error)], {"x": Strange(error)}):
        assert first_length(batch) is None
        assert infer_batch_size(batch) is None
