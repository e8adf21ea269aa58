"""The `tta-grid` command: one file a group of verbs."""
