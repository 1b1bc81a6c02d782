"""The role of aiobotocore: it finds credentials, configuration and endpoints.

This is the only module that imports aiobotocore and botocore. They look for credentials in
environment variables, profiles, container and instance metadata, web identity, SSO and external
processes. Requests are not theirs: `hftransfer.stores.s3.client` gives the measured reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import anyio.to_thread
from aiobotocore.session import AioSession
from botocore import exceptions as botocore

from hftransfer.errors import (
    AccessError,
    NetworkError,
    OptionsError,
    StalledError,
    TransferError,
    UnsupportedError,
)
from hftransfer.stores.s3.signing import Credentials

__all__ = ("CredentialResolver", "botocore_error")

# The first family that matches decides, so a subclass stands before its base class.
_FAMILIES: tuple[tuple[tuple[type[Exception], ...], type[TransferError], str], ...] = (
    (
        (botocore.ConnectTimeoutError, botocore.ReadTimeoutError),
        StalledError,
        "the credential service did not respond in time",
    ),
    (
        (botocore.ConnectionError, botocore.HTTPClientError),
        NetworkError,
        "the connection to the credential service failed",
    ),
    (
        (
            botocore.ClientError,
            botocore.NoCredentialsError,
            botocore.PartialCredentialsError,
            botocore.CredentialRetrievalError,
            botocore.SSOError,
            botocore.TokenRetrievalError,
        ),
        AccessError,
        "no usable credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile",
    ),
)


def botocore_error(error: Exception, context: str) -> TransferError:
    """Return our error for an exception of botocore.

    Args:
        error: raised while credentials, configuration or an endpoint were looked up.
        context: start of the message.
    """
    for families, kind, advice in _FAMILIES:
        if isinstance(error, families):
            # Quote the class only: the text of a connection error contains the signed URL.
            return kind(f"{context}: {advice} ({type(error).__name__})")
    return OptionsError(f"{context}: {error}")


class CredentialResolver:
    """Credentials, configuration and endpoints as botocore resolves them.

    The constructor reads files, so run it in a worker thread. Credentials are fetched and
    refreshed on the event loop.

    Args:
        profile: its name; None for the one that the environment selects.

    Raises:
        OptionsError: if the profile does not exist or is invalid.
    """

    def __init__(self, profile: str | None) -> None:
        self._profile = profile
        # botocore's credential object, which refreshes itself; None until it is needed.
        self._source: Any = None
        self._endpoint_rules: Any = None
        try:
            self._session = AioSession(profile=profile)
            scoped = self._session.get_scoped_config()
            self.s3_section: Mapping[str, Any] = self._session.get_config_variable("s3") or {}
            """The ``s3`` section of the profile."""
            self.region: str | None = os.environ.get(
                "AWS_REGION"
            ) or self._session.get_config_variable("region")
            self.endpoint_url = _endpoint_url(self._session, scoped)
            self.request_checksums: str | None = self._session.get_config_variable(
                "request_checksum_calculation"
            )
            self.response_checksums: str | None = self._session.get_config_variable(
                "response_checksum_validation"
            )
            self.ca_bundle: str | None = self._session.get_config_variable("ca_bundle")
        except (botocore.BotoCoreError, ValueError) as error:
            raise botocore_error(error, "S3 options") from error

    def needs_refresh(self) -> bool:
        """Return True if the credentials expire soon."""
        # Only botocore's temporary credentials have this method.
        needs = getattr(self._source, "refresh_needed", None)
        return needs is not None and bool(needs())

    def invalidate(self) -> None:
        """Make the next `credentials` look in every source again."""
        self._source = None

    async def credentials(self) -> Credentials:
        """Return credentials that are valid now.

        Raises:
            AccessError: if there are none.
            TransientError: if the credential service cannot be reached.
        """
        try:
            if self._source is None:
                session = await anyio.to_thread.run_sync(self._new_session)
                self._source = await session.get_credentials()
            if self._source is None:
                raise botocore.NoCredentialsError
            frozen = await self._source.get_frozen_credentials()
        except (botocore.BotoCoreError, botocore.ClientError) as error:
            raise botocore_error(error, "S3 credentials") from error
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def _new_session(self) -> AioSession:
        """Return a session with the present content of environment and files."""
        session = AioSession(profile=self._profile)
        session.full_config  # noqa: B018 - the property caches the files, so that no loop reads them
        return session

    def aws_endpoint(self, bucket: str, region: str, *, path_style: bool) -> tuple[str, str]:
        """Return the URL of `bucket` at AWS and the region to sign for.

        The first call reads botocore's endpoint rules from disk.

        Raises:
            OptionsError: if no AWS endpoint fits the region and the configuration.
            UnsupportedError: if the bucket needs a signature other than version 4.
        """
        try:
            if self._endpoint_rules is None:
                from botocore.endpoint_provider import EndpointProvider

                loader = self._session.get_component("data_loader")
                self._endpoint_rules = EndpointProvider(
                    loader.load_service_model("s3", "endpoint-rule-set-1"),
                    loader.load_data("partitions"),
                )
            resolved = self._endpoint_rules.resolve_endpoint(
                Bucket=bucket,
                Region=region,
                ForcePathStyle=path_style,
                UseFIPS=bool(self._session.get_config_variable("use_fips_endpoint")),
                UseDualStack=self._is_set("use_dualstack_endpoint"),
                Accelerate=self._is_set("use_accelerate_endpoint"),
                UseGlobalEndpoint=False,
                UseArnRegion=True,
                DisableMultiRegionAccessPoints=True,
            )
        except botocore.BotoCoreError as error:
            raise botocore_error(error, f"s3://{bucket}/") from error
        scheme: Mapping[str, Any] = next(iter(resolved.properties.get("authSchemes", ())), {})
        if scheme.get("name", "sigv4") != "sigv4":
            raise UnsupportedError(
                f"s3://{bucket}/: this kind of bucket requires the signature "
                f"{scheme['name']!r}, which is not supported; use a general purpose bucket"
            )
        return resolved.url, scheme.get("signingRegion", region)

    def _is_set(self, name: str) -> bool:
        value = self.s3_section.get(name, self._session.get_config_variable(name))
        return value is True or str(value).lower() == "true"


def _endpoint_url(session: AioSession, scoped: Mapping[str, Any]) -> str | None:
    """Return the endpoint that is configured for S3, in botocore's order of precedence.

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
    """
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    services = session.full_config.get("services", {}).get(scoped.get("services", ""), {})
    section = services.get("s3", {})
    url: str | None = (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or (section.get("endpoint_url") if isinstance(section, Mapping) else None)
        or scoped.get("endpoint_url")
    )
    return url
