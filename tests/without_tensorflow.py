"""Importing this hides TensorFlow from the process, which then is as where TensorFlow is not installed."""

from hidden import hide

hide(["tensorflow"])
