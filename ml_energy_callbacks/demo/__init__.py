"""The demonstration: a real, small training run with its energy."""

from pathlib import Path

from ml_energy_callbacks.demo.outcome import Outcome
from ml_energy_callbacks.exceptions import ConfigurationError

__all__ = ["Outcome", "run_lightning_demo"]


def run_lightning_demo(*, epochs: int, logdir: Path) -> Outcome:
    """Train, validate, test and predict with PyTorch Lightning.

    Args:
        epochs: Passes over the training images.
        logdir: Where TensorBoard finds the run.

    Raises:
        ConfigurationError: A package that the demonstration needs is missing.
    """
    try:
        from ml_energy_callbacks.demo.lightning import run  # noqa: PLC0415 - optional extras
    except ImportError as error:
        msg = f"The demonstration needs more packages ({error}): pip install 'ml-energy-callbacks[demo]'"
        raise ConfigurationError(msg) from error
    return run(epochs=epochs, logdir=logdir)
