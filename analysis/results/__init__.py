"""Reading a results folder: views, configurations, sections, checks."""
