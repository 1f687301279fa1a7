"""Exact top-k over item vectors, for any model that has them."""
