"""Means, intervals, ranks and paired differences over seeds."""
