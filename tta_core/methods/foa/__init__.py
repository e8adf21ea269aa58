"""Prompts found by an evolution strategy, and activation shifting: adaptation without back-propagation."""
