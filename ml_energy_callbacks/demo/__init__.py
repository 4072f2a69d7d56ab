"""The demonstration: a small training on real images, with its energy."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from ml_energy_callbacks.exceptions import ConfigurationError

if TYPE_CHECKING:
    from ml_energy_callbacks.demo.outcome import Outcome

__all__ = ["Framework", "run_demo"]

# The extra that installs each backend of Keras; torch is part of the extra `demo`.
_BACKENDS = {"tensorflow": "keras", "jax": "keras-jax", "torch": "keras"}


class Framework(StrEnum):
    """Frameworks of the demonstration."""

    LIGHTNING = "lightning"
    KERAS = "keras"


def run_demo(framework: Framework, *, epochs: int, logdir: Path) -> "Outcome":
    """Train, validate, test and predict.

    Args:
        framework: Framework to train with.
        epochs: Passes over the training images.
        logdir: Directory of the run, for TensorBoard.

    Raises:
        ConfigurationError: A required package is missing, or the demonstration does not support the backend of Keras.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if framework is Framework.KERAS and backend not in _BACKENDS:
        msg = f"KERAS_BACKEND is {backend!r}; the demonstration supports {', '.join(_BACKENDS)}."
        raise ConfigurationError(msg)
    try:
        import tensorboard  # noqa: F401, PLC0415 - optional, like the others; shows the panels

        if framework is Framework.KERAS:
            from ml_energy_callbacks.demo.keras import train_digits  # noqa: PLC0415
        else:
            from ml_energy_callbacks.demo.lightning import train_digits  # noqa: PLC0415
    except ImportError as error:
        extras = "demo" if framework is Framework.LIGHTNING else f"demo,{_BACKENDS[backend]}"
        msg = f"The demonstration requires more packages ({error}): pip install 'ml-energy-callbacks[{extras}]'"
        raise ConfigurationError(msg) from error
    return train_digits(epochs=epochs, logdir=logdir)
