"""Modules that replace parts of a network."""
