"""Callbacks for Keras 3, on the backends TensorFlow, JAX and torch."""

import importlib.util

if importlib.util.find_spec("keras") is None:
    _msg = (
        "ml_energy_callbacks.keras needs Keras 3 and a backend: pip install 'ml-energy-callbacks[keras]' for TensorFlow, "
        "'ml-energy-callbacks[keras-jax]' for JAX, or keras in addition to your own torch."
    )
    raise ImportError(_msg)

from ml_energy_callbacks.keras.control import EnergyBudget, EnergyEarlyStopping
from ml_energy_callbacks.keras.energy_callback import EnergyCallback

__all__ = ["EnergyBudget", "EnergyCallback", "EnergyEarlyStopping"]
