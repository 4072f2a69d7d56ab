"""Importing this hides TensorFlow from the process, as if it were not installed."""

from hidden import hide

hide(["tensorflow"])
