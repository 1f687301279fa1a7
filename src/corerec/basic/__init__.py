"""Models without a network: popularity, item-to-item transitions, ratings."""
