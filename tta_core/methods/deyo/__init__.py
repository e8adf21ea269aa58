"""Entropy minimisation on samples whose prediction depends on the shape of the object."""
