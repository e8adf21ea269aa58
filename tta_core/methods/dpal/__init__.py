"""Dual-path adversarial lifting: domain tokens, and predictors that take their noise out of the class token."""
