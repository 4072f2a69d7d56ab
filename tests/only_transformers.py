"""Importing this hides what the Trainer and TensorBoard import where it is installed, and do not need."""

from hidden import hide

hide(("jax", "keras", "lightning", "matplotlib", "pandas", "pytorch_lightning", "ray", "scipy", "sklearn", "tensorflow"))
