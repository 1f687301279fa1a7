"""Evaluation of recommenders by ranking metrics over the whole catalogue, with standard errors."""
