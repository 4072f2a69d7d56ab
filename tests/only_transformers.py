"""Importing this hides packages that the Trainer and TensorBoard import if they are installed, but do not need."""

from hidden import hide

hide(("jax", "keras", "lightning", "matplotlib", "pandas", "pytorch_lightning", "ray", "scipy", "sklearn", "tensorflow"))
