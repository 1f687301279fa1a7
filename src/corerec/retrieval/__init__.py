"""Exact top-k retrieval over item vectors, for any model that has item vectors."""
