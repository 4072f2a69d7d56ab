"""Importing this hides what Lightning and TensorBoard import where it is installed, and do not need.

The process then shows that it is not needed, and starts sooner.
"""

from hidden import hide

hide(("keras", "matplotlib", "scipy", "sklearn", "tensorflow", "transformers"))
