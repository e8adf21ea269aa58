"""Weighted likelihood ratios, with weights that are continually averaged with the source's."""
