"""How Metaflow reaches S3, for the engine: endpoint, region, TLS and credentials.

A datastore backend carries its own parameters only under ``@with_artifact_store``;
otherwise Metaflow's ``METAFLOW_S3_*`` and ``METAFLOW_DATATOOLS_CLIENT_PARAMS`` hold.
Whatever neither names is left to botocore, which then refreshes credentials by itself.
What the engine cannot reproduce is refused with `NotForEngine`, and Metaflow's own client
does the work.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

_PARAMETERS = {
    "endpoint_url": "endpoint_url",
    "region_name": "region_name",
    "verify": "verify",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
# They tune botocore's own transport, which moves none of the engine's data.
_TUNING = frozenset(
    (
        "connect_timeout",
        "disable_request_compression",
        "max_pool_connections",
        "parameter_validation",
        "read_timeout",
        "request_checksum_calculation",
        "request_min_compression_size_bytes",
        "response_checksum_validation",
        "retries",
        "tcp_keepalive",
        "user_agent",
        "user_agent_extra",
        "user_agent_appid",
    )
)
S3_TYPES = frozenset(("s3", "s3-compatible", "coreweave"))


class NotForEngine(Exception):  # noqa: N818 - a decision, and no failure
    """Settings that the engine has no equal for; the message says which."""


def s3_settings(backend: Any) -> dict[str, Any]:
    """Return the fields of the engine's ``S3Options`` that `backend` asks for.

    Raises
    ------
    NotForEngine
        If the engine would not do what Metaflow's client does.
    """
    from metaflow.metaflow_config import (
        AWS_SANDBOX_ENABLED,
        DEFAULT_AWS_CLIENT_PROVIDER,
        S3_SERVER_SIDE_ENCRYPTION,
    )

    parameters = client_parameters(backend)
    settings = {
        ours: parameters.pop(theirs)
        for theirs, ours in _PARAMETERS.items()
        if parameters.get(theirs) is not None
    }
    # METAFLOW_S3_VERIFY_CERTIFICATE is text when it comes from the environment.
    if str(settings.get("verify")).lower() in ("false", "true"):
        settings["verify"] = str(settings["verify"]).lower() == "true"
    settings |= _config_settings(parameters.pop("config", None))
    unknown = {name for name, value in parameters.items() if value is not None}
    if unknown - set(_PARAMETERS):
        raise NotForEngine(f"client parameters {', '.join(sorted(unknown))}")
    role = getattr(backend, "_s3_role_arn", None)
    if role or AWS_SANDBOX_ENABLED or DEFAULT_AWS_CLIENT_PROVIDER != "boto3":
        settings |= _resolved_credentials(backend)
    if S3_SERVER_SIDE_ENCRYPTION:
        settings["server_side_encryption"] = S3_SERVER_SIDE_ENCRYPTION
    return settings


def client_parameters(backend: Any) -> dict[str, Any]:
    """Return the parameters of Metaflow's client for `backend`, a copy that may be changed."""
    from metaflow.metaflow_config import DATATOOLS_CLIENT_PARAMS

    parameters = getattr(backend, "_s3_client_params", None) or DATATOOLS_CLIENT_PARAMS or {}
    return copy.deepcopy(dict(parameters))


def _config_settings(config: Any) -> dict[str, Any]:
    """Return what a botocore ``Config``, or the dict for one, asks for."""
    if config is None:
        return {}
    given = config if isinstance(config, Mapping) else config._user_provided_options
    options = {name: value for name, value in given.items() if value is not None}
    settings: dict[str, Any] = {}
    if region := options.pop("region_name", None):
        settings["region_name"] = region
    s3 = dict(options.pop("s3", None) or {})
    if style := s3.pop("addressing_style", None):
        settings["addressing_style"] = style
    if options.get("signature_version") in ("s3v4", "v4"):
        del options["signature_version"]
    unknown = {*(set(options) - _TUNING), *(f"s3.{name}" for name in s3)}
    if unknown:
        raise NotForEngine(f"botocore configuration {', '.join(sorted(unknown))}")
    return settings


def _resolved_credentials(backend: Any) -> dict[str, Any]:
    """Return what a role or a provider plug-in resolves to now.

    botocore has no public way from a client to its credentials.
    """
    from metaflow_extensions.hftransfer.plugins.engine.s3_clients import shared_client

    # The client that this process keeps, whose credentials renew themselves.
    client = shared_client(
        getattr(backend, "_s3_role_arn", None),
        getattr(backend, "_s3_session_vars", None),
        client_parameters(backend),
    ).client
    credentials = client._request_signer._credentials
    if credentials is None:
        raise NotForEngine("a client without credentials")
    frozen = credentials.get_frozen_credentials()
    return {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
        "session_token": frozen.token,
        "region_name": client.meta.region_name,
        "endpoint_url": client.meta.endpoint_url,
    }
