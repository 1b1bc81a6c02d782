"""Settings of the extension, from ``METAFLOW_<name>`` or a configuration file of Metaflow.

The settings of the engine are ``HFTRANSFER_*``.
"""

import sys

from metaflow.metaflow_config_funcs import from_conf

# Loads from a local datastore make symbolic links into it in place of copies. This saves
# space and time, but writing to such a file changes the stored one.
HFTRANSFER_LOCAL_LINKS = from_conf("HFTRANSFER_LOCAL_LINKS", False)

# Seconds between the progress lines of a transfer.
HFTRANSFER_PROGRESS_INTERVAL = from_conf("HFTRANSFER_PROGRESS_INTERVAL", 10)

# `spin` runs the decorators on this list only; a list that the user configured stays as it is.
_allowed = getattr(sys.modules.get("metaflow.metaflow_config"), "SPIN_ALLOWED_DECORATORS", None)
if isinstance(_allowed, list) and from_conf("SPIN_ALLOWED_DECORATORS") is None:
    SPIN_ALLOWED_DECORATORS = [*_allowed, "huggingface_hub"]
del _allowed
