"""Settings of the extension, from ``METAFLOW_<name>`` or a configuration file of Metaflow.

The settings of the engine are ``HFTRANSFER_*``.
"""

from metaflow.metaflow_config_funcs import from_conf

# Loads from a local datastore make symbolic links into it in place of copies. This saves
# space and time, but writing to such a file changes the stored one.
HFTRANSFER_LOCAL_LINKS = from_conf("HFTRANSFER_LOCAL_LINKS", False)

# Seconds between the progress lines of a transfer.
HFTRANSFER_PROGRESS_INTERVAL = from_conf("HFTRANSFER_PROGRESS_INTERVAL", 10)
