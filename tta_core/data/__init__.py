"""Benchmarks, streams and their images."""
