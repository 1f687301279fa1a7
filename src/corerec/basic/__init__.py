"""Models without a neural network: popularity, item-to-item transitions and expected ratings."""
