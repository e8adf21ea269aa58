"""Mixture-of-experts LayerNorm with sample-wise routing."""
