"""The public name of `analysis.results.load`."""

from analysis.results.load import ResultsError, open_results, rows

__all__ = ["ResultsError", "open_results", "rows"]
