"""Decisions by energy, whatever the framework: a budget, gains that are worth their energy, and what a training will take."""

from ml_energy_callbacks.control.budget import Action, Budget
from ml_energy_callbacks.control.forecast import Forecaster, Spent
from ml_energy_callbacks.control.gain import GainRule, Mode

__all__ = ["Action", "Budget", "Forecaster", "GainRule", "Mode", "Spent"]
