"""Names the module with what the extension adds to the ``metaflow`` package."""

toplevel = "toplevel"
