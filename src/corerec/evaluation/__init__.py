"""Metrics over the whole catalogue, with standard errors."""
