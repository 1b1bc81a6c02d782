"""How Metaflow reaches S3, for the engine: endpoint, region, TLS and credentials.

A datastore backend has parameters of its own only under ``@with_artifact_store``. Otherwise
Metaflow's ``METAFLOW_S3_*`` and ``METAFLOW_DATATOOLS_CLIENT_PARAMS`` apply. Whatever neither
of them sets is left to botocore, which then also renews the credentials. For settings that
the engine cannot reproduce `UnsupportedByEngine` is raised, and Metaflow's own client is used.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine

# From parameters of boto3's clients to fields of the engine's ``S3Options``.
_PARAMETERS = {
    "endpoint_url": "endpoint_url",
    "region_name": "region_name",
    "verify": "verify",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
# Settings of botocore's own transport, which does not carry the engine's data.
_TRANSPORT = frozenset(
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


def s3_settings(backend: Any) -> dict[str, Any]:
    """Return the fields of the engine's ``S3Options`` that `backend` needs.

    Parameters
    ----------
    backend : DataStoreStorage
        A datastore backend of one of `S3_TYPES`.

    Returns
    -------
    dict
        Without the fields that are left to botocore.

    Raises
    ------
    UnsupportedByEngine
        If the engine would not behave as Metaflow's client does.
    """
    from metaflow.metaflow_config import (
        AWS_SANDBOX_ENABLED,
        DEFAULT_AWS_CLIENT_PROVIDER,
        S3_SERVER_SIDE_ENCRYPTION,
    )

    parameters = client_parameters(backend)
    settings = {
        field: parameters.pop(name)
        for name, field in _PARAMETERS.items()
        if parameters.get(name) is not None
    }
    # From the environment METAFLOW_S3_VERIFY_CERTIFICATE is a text.
    if str(settings.get("verify")).lower() in ("false", "true"):
        settings["verify"] = str(settings["verify"]).lower() == "true"
    settings |= _config_settings(parameters.pop("config", None))
    unknown = {name for name, value in parameters.items() if value is not None}
    if unknown - set(_PARAMETERS):
        raise UnsupportedByEngine(f"unsupported client parameters: {', '.join(sorted(unknown))}")
    role = getattr(backend, "_s3_role_arn", None)
    if role or AWS_SANDBOX_ENABLED or DEFAULT_AWS_CLIENT_PROVIDER != "boto3":
        settings |= _resolved_credentials(backend)
    if S3_SERVER_SIDE_ENCRYPTION:
        settings["server_side_encryption"] = S3_SERVER_SIDE_ENCRYPTION
    return settings


def client_parameters(backend: Any) -> dict[str, Any]:
    """Return the parameters of Metaflow's client for `backend`: a copy, free to be changed."""
    from metaflow.metaflow_config import DATATOOLS_CLIENT_PARAMS

    parameters = getattr(backend, "_s3_client_params", None) or DATATOOLS_CLIENT_PARAMS or {}
    return copy.deepcopy(dict(parameters))


def _config_settings(config: Any) -> dict[str, Any]:
    """Return the settings of a botocore ``Config``, or of a dict with its arguments."""
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
    unknown = {*(set(options) - _TRANSPORT), *(f"s3.{name}" for name in s3)}
    if unknown:
        raise UnsupportedByEngine(
            f"unsupported botocore configuration: {', '.join(sorted(unknown))}"
        )
    return settings


def _resolved_credentials(backend: Any) -> dict[str, Any]:
    """Return the current credentials of a role, or of a client provider plug-in.

    They are read from a private attribute, because botocore has no public way from a client
    to its credentials.
    """
    from metaflow_extensions.hftransfer.plugins.engine.s3_clients import shared_client

    # The shared client of this process renews its credentials by itself.
    client = shared_client(
        getattr(backend, "_s3_role_arn", None),
        getattr(backend, "_s3_session_vars", None),
        client_parameters(backend),
    ).client
    credentials = client._request_signer._credentials
    if credentials is None:
        raise UnsupportedByEngine("the S3 client has no credentials")
    frozen = credentials.get_frozen_credentials()
    return {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
        "session_token": frozen.token,
        "region_name": client.meta.region_name,
        "endpoint_url": client.meta.endpoint_url,
    }
