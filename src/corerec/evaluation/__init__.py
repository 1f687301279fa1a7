"""Evaluation metrics over the whole catalogue, with standard errors."""
