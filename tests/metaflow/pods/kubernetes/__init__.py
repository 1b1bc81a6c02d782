"""Stands in for the client of a cluster, which is never asked anything."""
