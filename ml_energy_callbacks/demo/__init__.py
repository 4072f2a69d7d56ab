"""The demonstration: a real, small training run with its energy."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from ml_energy_callbacks.exceptions import ConfigurationError

if TYPE_CHECKING:
    from ml_energy_callbacks.demo.outcome import Outcome

__all__ = ["Framework", "run_demo"]

# The extra with each of Keras's backends; torch comes with the extra `demo`.
_BACKENDS = {"tensorflow": "keras", "jax": "keras-jax", "torch": "keras"}


class Framework(StrEnum):
    """A framework that has a demonstration."""

    LIGHTNING = "lightning"
    KERAS = "keras"


def run_demo(framework: Framework, *, epochs: int, logdir: Path) -> "Outcome":
    """Train, validate, test and predict.

    Args:
        framework: What trains.
        epochs: Passes over the training images.
        logdir: Where TensorBoard finds the run.

    Raises:
        ConfigurationError: A package that the demonstration needs is missing, or Keras cannot train on its backend.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if framework is Framework.KERAS and backend not in _BACKENDS:
        msg = f"KERAS_BACKEND is {backend!r}; the demonstration trains on {', '.join(_BACKENDS)}."
        raise ConfigurationError(msg)
    try:
        import tensorboard  # noqa: F401, PLC0415 - optional, as are the others: it shows the panels

        if framework is Framework.KERAS:
            from ml_energy_callbacks.demo.keras import run  # noqa: PLC0415
        else:
            from ml_energy_callbacks.demo.lightning import run  # noqa: PLC0415
    except ImportError as error:
        extras = "demo" if framework is Framework.LIGHTNING else f"demo,{_BACKENDS[backend]}"
        msg = f"The demonstration needs more packages ({error}): pip install 'ml-energy-callbacks[{extras}]'"
        raise ConfigurationError(msg) from error
    return run(epochs=epochs, logdir=logdir)
