"""The scenarios, as data."""
