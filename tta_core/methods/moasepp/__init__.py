"""MoASE with on-policy distillation on augmented images."""
