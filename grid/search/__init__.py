"""Studies: which settings are tried, judged and chosen. The engine behind `search:` of a sweep."""
