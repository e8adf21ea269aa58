"""Predictions of a batch made to agree among neighbours."""
