"""Stores: where bytes come from and go to. Each is a Source, a Sink, or both."""
