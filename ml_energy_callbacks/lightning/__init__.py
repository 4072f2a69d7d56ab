"""Callbacks for PyTorch Lightning, for trainers of ``pytorch_lightning`` and of ``lightning.pytorch``."""

from ml_energy_callbacks.lightning.control import EnergyBudget, EnergyEarlyStopping
from ml_energy_callbacks.lightning.energy_callback import EnergyCallback

__all__ = ["EnergyBudget", "EnergyCallback", "EnergyEarlyStopping"]
