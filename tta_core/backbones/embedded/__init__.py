"""The four small networks that ship with this package, and how they were made."""
