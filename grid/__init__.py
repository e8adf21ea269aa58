"""Many trials: sweeps in YAML, Ray Tune, the result store, MLflow and the `tta-grid` command."""
