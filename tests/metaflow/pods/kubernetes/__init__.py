"""Stands in for the client of a cluster."""
