"""The clients and what they can do: copy, verify, list, each from a location to another."""
