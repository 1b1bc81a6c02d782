"""The datastore of the running flow, recorded in an environment variable.

The variable also reaches the processes that a step starts.
"""

from __future__ import annotations

import json
import os
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.s3_clients import share_client

_VARIABLE = "METAFLOW_HFTRANSFER_FLOW_DATASTORE"


def remember_datastore(flow_datastore: Any) -> None:
    """Record type and root of the datastore of the running flow.

    Parameters
    ----------
    flow_datastore : FlowDataStore
        What Metaflow gives to ``step_init``.
    """
    kind, root = flow_datastore.TYPE, flow_datastore.datastore_root
    if kind == "spin":
        # The datastore of `spin` has the artifacts of one try. Repositories, checkpoints and
        # models are those of the configured datastore, which the run that is tried used.
        os.environ.pop(_VARIABLE, None)
        return
    if kind == "local":
        root = os.path.abspath(root)  # the step's own processes may run in another directory
    os.environ[_VARIABLE] = json.dumps([kind, root])
    if kind == "s3":
        share_client(getattr(flow_datastore, "_storage_impl", None))


def remembered_datastore() -> tuple[str, str] | None:
    """Return type and root of the flow's datastore; None outside of a flow."""
    try:
        kind, root = json.loads(os.environ[_VARIABLE])
    except (KeyError, ValueError, TypeError):
        return None
    return kind, root
