"""Adapters behind every block, chosen for each sample by a noisy gate."""
