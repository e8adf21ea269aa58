"""From a sweep file to cells: what would run, and for how long."""
