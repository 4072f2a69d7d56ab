"""Energy of predictions, by batch size and for several models; the results of generated text, too."""

from ml_energy_callbacks.inference.compare import compare_models
from ml_energy_callbacks.inference.generation_results import Coefficient, GenerationCost, GenerationProfile, HeldBack, Law
from ml_energy_callbacks.inference.profile import profile_inference
from ml_energy_callbacks.inference.results import BatchCost, Comparison, Cost, Difference, Interval, ModelCost, Profile

__all__ = [
    "BatchCost",
    "Coefficient",
    "Comparison",
    "Cost",
    "Difference",
    "GenerationCost",
    "GenerationProfile",
    "HeldBack",
    "Interval",
    "Law",
    "ModelCost",
    "Profile",
    "compare_models",
    "profile_inference",
]
