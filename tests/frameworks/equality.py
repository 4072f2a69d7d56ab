"""Models, states and files as values that can be compared bit for bit."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return a value with arrays and tensors as their types, shapes and bytes, at any depth."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    return value


def random_states() -> dict[str, Any]:
    """Return the states of the random generators of Python and NumPy."""
    return {"python": random.getstate(), "numpy": plain(np.random.get_state())}  # noqa: NPY002 - what users have
