"""Settings of the extension, read as all of Metaflow's (``METAFLOW_`` and the name, or config).

The engine itself reads ``HFTRANSFER_*``.
"""

from metaflow.metaflow_config_funcs import from_conf

# Loads from a local datastore make links into it in place of copies. Saves space and
# time; but whoever writes to such a file then changes the stored one.
HFTRANSFER_LOCAL_LINKS = from_conf("HFTRANSFER_LOCAL_LINKS", False)

# Seconds between the lines that tell how a transfer goes.
HFTRANSFER_PROGRESS_INTERVAL = from_conf("HFTRANSFER_PROGRESS_INTERVAL", 10)
