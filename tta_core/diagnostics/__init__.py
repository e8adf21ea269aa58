"""Observers: what they see of a run, what they measure. Each module here is one analysis."""
