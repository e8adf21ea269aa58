"""Cells on Ray: the queue, the trials, the cluster, the progress."""
