"""A learned optimizer for normalisation layers, on entropy and distance to source statistics."""
