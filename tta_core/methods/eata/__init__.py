"""ETA with a penalty on moving weights that matter for the source."""
