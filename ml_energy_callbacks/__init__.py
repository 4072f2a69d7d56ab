"""Energy, carbon and cost of training and inference, one callback away."""
