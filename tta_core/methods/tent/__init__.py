"""Entropy minimisation on normalisation layers."""
