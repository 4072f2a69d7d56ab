"""Energy in TensorBoard."""
