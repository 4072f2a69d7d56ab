"""Event files, panels and HParams for TensorBoard."""
