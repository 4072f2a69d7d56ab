"""Decisions during a training, for every framework: energy budget, early stopping by gain per kWh, and forecast."""

from ml_energy_callbacks.control.budget import Action, Budget
from ml_energy_callbacks.control.forecast import Forecaster, Spent
from ml_energy_callbacks.control.gain import GainRule, Mode

__all__ = ["Action", "Budget", "Forecaster", "GainRule", "Mode", "Spent"]
