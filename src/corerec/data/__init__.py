"""Interaction logs: read columns and files, and convert them to sequences of item numbers."""
