"""The results of runs: stored as JSON, summarised, shown as tables and charts."""
