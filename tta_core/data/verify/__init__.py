"""`tta-grid data verify`: what is missing, damaged or too much below the data root."""
