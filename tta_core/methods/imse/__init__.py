"""Intrinsic mixture of spectral experts."""
