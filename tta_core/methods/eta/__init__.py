"""Entropy minimisation on reliable, non-redundant samples."""
