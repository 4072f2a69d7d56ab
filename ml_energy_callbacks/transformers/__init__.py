"""Callbacks for the ``Trainer`` of Hugging Face Transformers, and the energy of what its models generate."""

import importlib.util

if any(importlib.util.find_spec(name) is None for name in ("transformers", "accelerate", "torch")):
    _msg = "ml_energy_callbacks.transformers needs the Trainer of Transformers: pip install 'ml-energy-callbacks[transformers]'"
    raise ImportError(_msg)

from ml_energy_callbacks.transformers.control import EnergyBudget, EnergyEarlyStopping
from ml_energy_callbacks.transformers.energy_callback import EnergyCallback
from ml_energy_callbacks.transformers.generation import profile_generation

__all__ = ["EnergyBudget", "EnergyCallback", "EnergyEarlyStopping", "profile_generation"]
