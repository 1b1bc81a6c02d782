"""Runs a scenario: processes, their working directories, data sets and environments."""
