"""Prototypes of the classes that are adjusted with confident samples."""
