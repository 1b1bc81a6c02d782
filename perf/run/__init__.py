"""Runs a scenario: processes, working directories, data sets and the peers' environments."""
