"""Energy of predictions, by batch size and for several models; of the layers of a network; results of generated text."""

from ml_energy_callbacks.inference.compare import compare_models
from ml_energy_callbacks.inference.generation_results import Coefficient, GenerationCost, GenerationProfile, HeldBack, Law
from ml_energy_callbacks.inference.layers.profile import profile_layers
from ml_energy_callbacks.inference.layers.results import LayerCost, LayerProfile
from ml_energy_callbacks.inference.layers.timer import LayerTimer
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
    "LayerCost",
    "LayerProfile",
    "LayerTimer",
    "ModelCost",
    "Profile",
    "compare_models",
    "profile_inference",
    "profile_layers",
]
