"""Experts beside the MLP that keep part of their activations, taught by a mean teacher."""
