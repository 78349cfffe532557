"""A run, a sweep of runs, the results on disk."""
