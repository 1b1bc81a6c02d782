"""Settings of the extension. It has none of its own: the engine reads ``HFTRANSFER_*``."""
