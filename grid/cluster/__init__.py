"""Clusters from outside: jobs, a look at all nodes, results brought home."""
