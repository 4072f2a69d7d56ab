"""Energy of predictions, by batch size and for several models."""

from ml_energy_callbacks.inference.compare import compare_models
from ml_energy_callbacks.inference.profile import profile_inference
from ml_energy_callbacks.inference.results import BatchCost, Comparison, Cost, Difference, Interval, ModelCost, Profile

__all__ = [
    "BatchCost",
    "Comparison",
    "Cost",
    "Difference",
    "Interval",
    "ModelCost",
    "Profile",
    "compare_models",
    "profile_inference",
]
