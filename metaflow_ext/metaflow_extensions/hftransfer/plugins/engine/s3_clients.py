"""The S3 clients of this process, one for each set of parameters.

They are Metaflow's own, for small objects and listings. The engine has connections of its
own. Metaflow's S3 module is imported on first use, because this module is imported while
Metaflow's plugins are being loaded.
"""

from __future__ import annotations

import json
from typing import Any

_clients: dict[str, Any] = {}


def share_client(storage: Any) -> None:
    """Use the S3 client of the flow's own datastore wherever no parameters are given.

    Parameters
    ----------
    storage : DataStoreStorage
        The flow's datastore backend. Its client exists before a step runs; to make a second
        one takes 0.1 s.
    """
    from metaflow.plugins.datatools.s3.s3 import S3Client

    client = getattr(storage, "s3_client", None)
    parameters = ("_s3_role", "_s3_session_vars", "_s3_client_params")
    if type(client) is S3Client and not any(getattr(client, name, True) for name in parameters):
        _clients.setdefault(_cache_key(None, None, None), client)


def shared_client(role_arn: str | None, session_vars: Any, client_params: Any) -> Any:
    """Return this process's `S3Client` for these parameters; it is made on first use."""
    from metaflow.plugins.datatools.s3.s3 import S3Client

    key = _cache_key(role_arn, session_vars, client_params)
    if key not in _clients:
        _clients[key] = S3Client(
            s3_role_arn=role_arn, s3_session_vars=session_vars, s3_client_params=client_params
        )
    return _clients[key]


def _cache_key(*parameters: Any) -> str:
    return json.dumps(parameters, sort_keys=True, default=repr)
