"""Importing this hides packages that Lightning and TensorBoard import if they are installed, but do not need.

The tests then show that they are not needed, and the process starts sooner.
"""

from hidden import hide

hide(("keras", "matplotlib", "scipy", "sklearn", "tensorflow", "transformers"))
