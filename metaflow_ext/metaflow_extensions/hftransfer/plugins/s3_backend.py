"""How Metaflow reaches S3, for the engine: endpoint, region, TLS and credentials.

A datastore backend carries its own parameters only under ``@with_artifact_store``;
otherwise Metaflow's ``METAFLOW_S3_*`` and ``METAFLOW_DATATOOLS_CLIENT_PARAMS`` hold.
Whatever neither names is left to botocore, which then refreshes credentials by itself.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

_PARAMETERS = {
    "endpoint_url": "endpoint_url",
    "region_name": "region_name",
    "verify": "verify",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}


def s3_settings(backend: Any) -> dict[str, Any]:
    """Return the fields of the engine's ``S3Options`` that `backend` asks for."""
    from metaflow.metaflow_config import DEFAULT_AWS_CLIENT_PROVIDER

    parameters = _client_parameters(backend)
    settings = {
        ours: parameters[theirs]
        for theirs, ours in _PARAMETERS.items()
        if parameters.get(theirs) is not None
    }
    # METAFLOW_S3_VERIFY_CERTIFICATE is text when it comes from the environment.
    if str(settings.get("verify")).lower() in ("false", "true"):
        settings["verify"] = str(settings["verify"]).lower() == "true"
    if getattr(backend, "_s3_role_arn", None) or DEFAULT_AWS_CLIENT_PROVIDER != "boto3":
        settings |= _resolved_credentials(backend)
    return settings


def delete_below(backend: Any, url: str) -> None:
    """Delete every object under the prefix `url` (``s3://bucket/key/``)."""
    client = _client(backend)
    parts = urlsplit(url, allow_fragments=False)
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=parts.netloc, Prefix=parts.path.lstrip("/")
    )
    for page in pages:
        for item in page.get("Contents", ()):
            client.delete_object(Bucket=parts.netloc, Key=item["Key"])


def _client_parameters(backend: Any) -> dict[str, Any]:
    from metaflow.metaflow_config import DATATOOLS_CLIENT_PARAMS

    # A copy, because Metaflow's client provider writes into what it is given.
    return dict(getattr(backend, "_s3_client_params", None) or DATATOOLS_CLIENT_PARAMS or {})


def _client(backend: Any) -> Any:
    from metaflow.plugins.datatools.s3.s3util import get_s3_client

    client, _ = get_s3_client(
        s3_role_arn=getattr(backend, "_s3_role_arn", None),
        s3_session_vars=getattr(backend, "_s3_session_vars", None),
        s3_client_params=_client_parameters(backend),
    )
    return client


def _resolved_credentials(backend: Any) -> dict[str, Any]:
    """Return what a role or a provider plug-in resolves to now.

    botocore has no public way from a client to its credentials.
    """
    client = _client(backend)
    frozen = client._request_signer._credentials.get_frozen_credentials()
    return {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
        "session_token": frozen.token,
        "region_name": client.meta.region_name,
        "endpoint_url": client.meta.endpoint_url,
    }
