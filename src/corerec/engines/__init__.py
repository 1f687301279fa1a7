"""Recommendation engines."""
