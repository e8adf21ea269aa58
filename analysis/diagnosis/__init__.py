"""What observers measured, as tables, curves and maps."""
