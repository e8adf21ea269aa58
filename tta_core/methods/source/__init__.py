"""The source network, not adapted."""
