"""Stores: they read and write files. Each implements `Source`, `Sink`, or both (see `base`)."""
