"""Energy and time of the layers of a torch module."""
