"""Adapters of low and high rank beside attention, taught by a mean teacher and scaled by its uncertainty."""
