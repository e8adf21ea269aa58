"""Sharpness-aware and reliable entropy minimisation."""
