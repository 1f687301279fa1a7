"""Interaction logs: columns and files in, sequences of item numbers out."""
