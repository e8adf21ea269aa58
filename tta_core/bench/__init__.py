"""What a step of each method costs, in source forwards of the same network: `tta-grid bench`."""
