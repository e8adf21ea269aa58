"""Statistics of BatchNorm layers from the test batch."""
