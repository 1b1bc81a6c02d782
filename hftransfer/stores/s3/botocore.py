"""What aiobotocore finds in the environment, in files and on the network.

The one module that uses aiobotocore and botocore. Making a `CredentialResolver` reads files and
belongs into a worker thread. Credentials are fetched and renewed on the event loop, from
wherever botocore knows to look for them: variables, profiles, containers, instance
metadata, web identity, SSO, processes.
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

# One sentence per family; the first that fits, so the narrower class comes first.
_FAMILIES: tuple[tuple[tuple[type[Exception], ...], type[TransferError], str], ...] = (
    (
        (botocore.ConnectTimeoutError, botocore.ReadTimeoutError),
        StalledError,
        "the service that gives credentials did not answer in time",
    ),
    (
        (botocore.ConnectionError, botocore.HTTPClientError),
        NetworkError,
        "the connection to the service that gives credentials failed",
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
        "no usable credentials; set AWS_ACCESS_KEY_ID and its companions, a profile or a role",
    ),
)


def botocore_error(error: Exception, what: str) -> TransferError:
    """Return the error that stands for `error`, raised while an account was looked up.

    Args:
        error: of botocore.
        what: begins the message.
    """
    for families, kind, advice in _FAMILIES:
        if isinstance(error, families):
            # Only the class is quoted: texts of connection errors hold whole request URLs.
            return kind(f"{what}: {advice} ({type(error).__name__})")
    return OptionsError(f"{what}: {error}")


class CredentialResolver:
    """Configuration, credentials and endpoints, as botocore finds them.

    Args:
        profile: its name, or None for the one that the environment names.

    Raises:
        OptionsError: if the profile, or what it says, cannot be used.
    """

    def __init__(self, profile: str | None) -> None:
        self._profile = profile
        self._source: Any = None
        self._rules: Any = None
        try:
            self._session = AioSession(profile=profile)
            scoped = self._session.get_scoped_config()
            self.s3: Mapping[str, Any] = self._session.get_config_variable("s3") or {}
            """The settings of the profile's ``s3`` section."""
            self.region: str | None = os.environ.get(
                "AWS_REGION"
            ) or self._session.get_config_variable("region")
            self.endpoint_url = _endpoint(self._session, scoped)
            self.ca_bundle: str | None = self._session.get_config_variable("ca_bundle")
        except (botocore.BotoCoreError, ValueError) as error:
            raise botocore_error(error, "S3 options") from error

    def is_due(self) -> bool:
        """Return True if the credentials are about to run out."""
        # botocore's own credentials with an end know when to ask for new ones.
        due = getattr(self._source, "refresh_needed", None)
        return due is not None and bool(due())

    def forget(self) -> None:
        """Look everywhere anew when credentials are next asked for."""
        self._source = None

    async def credentials(self) -> Credentials:
        """Return credentials that are valid now.

        Raises:
            AccessError: if there are none.
            TransientError: if the service that gives them cannot be reached.
        """
        try:
            if self._source is None:
                session = await anyio.to_thread.run_sync(self._reread)
                self._source = await session.get_credentials()
            if self._source is None:
                raise botocore.NoCredentialsError
            frozen = await self._source.get_frozen_credentials()
        except (botocore.BotoCoreError, botocore.ClientError) as error:
            raise botocore_error(error, "S3 credentials") from error
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def _reread(self) -> AioSession:
        """Return a session that knows what variables and files say now."""
        session = AioSession(profile=self._profile)
        session.full_config  # noqa: B018 - read here, kept for the event loop
        return session

    def aws_endpoint(self, bucket: str, region: str, *, path_style: bool) -> tuple[str, str]:
        """Return the URL of `bucket` at AWS, and the region to sign for. Reads files once.

        Raises:
            OptionsError: if region and configuration fit no endpoint.
            UnsupportedError: if the bucket is of a kind with a protocol of its own.
        """
        try:
            if self._rules is None:
                from botocore.endpoint_provider import EndpointProvider

                loader = self._session.get_component("data_loader")
                self._rules = EndpointProvider(
                    loader.load_service_model("s3", "endpoint-rule-set-1"),
                    loader.load_data("partitions"),
                )
            found = self._rules.resolve_endpoint(
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
        scheme: Mapping[str, Any] = next(iter(found.properties.get("authSchemes", ())), {})
        if scheme.get("name", "sigv4") != "sigv4":
            raise UnsupportedError(
                f"s3://{bucket}/: buckets of this kind ask for the signature "
                f"{scheme['name']!r}, which is not supported"
            )
        return found.url, scheme.get("signingRegion", region)

    def _is_set(self, name: str) -> bool:
        value = self.s3.get(name, self._session.get_config_variable(name))
        return value is True or str(value).lower() == "true"


def _endpoint(session: AioSession, scoped: Mapping[str, Any]) -> str | None:
    """Return the endpoint that is configured for S3, in botocore's order.

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
    """
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    services = session.full_config.get("services", {}).get(scoped.get("services", ""), {})
    section = services.get("s3", {})
    found: str | None = (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or (section.get("endpoint_url") if isinstance(section, Mapping) else None)
        or scoped.get("endpoint_url")
    )
    return found
