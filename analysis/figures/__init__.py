"""Tables as text, and plots."""
