"""What a prediction is worth: one file a task."""
