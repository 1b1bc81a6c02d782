"""The role of aiobotocore: it finds credentials, configuration and endpoints.

This is the only module that imports aiobotocore and botocore. They look for credentials in
environment variables, profiles, container and instance metadata, web identity, SSO and external
processes. Requests are not theirs: `hftransfer.stores.s3.client` gives the measured reason.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import exceptions as botocore

from hftransfer._http.errors import failure_reason
from hftransfer.errors import (
    AccessError,
    NetworkError,
    OptionsError,
    ServerError,
    StalledError,
    TransferError,
    UnsupportedError,
)
from hftransfer.stores.s3.signing import Credentials

__all__ = ("CredentialResolver", "botocore_error")

# botocore has such a handler, aiobotocore has none. Without one, Python prints the tracebacks that
# it logs before it raises the exceptions that become our errors.
logging.getLogger("aiobotocore").addHandler(logging.NullHandler())

# Limits of one request to a credential service, which botocore sends `_ATTEMPTS` times at most. Its
# defaults are 60 s and 5 attempts: a firewall that drops packets would cost five minutes.
_CONNECT_SECONDS = 5
_READ_SECONDS = 10
_ATTEMPTS = 3
_CONTEXT = "S3 credentials"
# Seconds for a lookup in all sources, external processes included.
_LOOKUP_SECONDS = 90.0

_SIGN_IN = (
    botocore.SSOError,
    botocore.TokenRetrievalError,
    # New in botocore 1.41.
    *([botocore.LoginError] if hasattr(botocore, "LoginError") else []),
)
_THROTTLED_CODES = ("Throttling", "ThrottlingException", "RequestLimitExceeded", "SlowDown")


def botocore_error(error: Exception, context: str, *, profile: str | None = None) -> TransferError:
    """Return our error for an exception of botocore.

    The text of a connection error contains the URL, which may be signed, so it is not quoted.

    Args:
        error: raised while credentials, configuration or an endpoint were looked up.
        context: start of the message.
        profile: that was used; None for the default one.
    """
    if isinstance(error, (botocore.ConnectionError, botocore.HTTPClientError)):
        return _connection_error(error, context)
    if isinstance(error, _SIGN_IN):
        option = f" --profile {profile}" if profile else ""
        command = "login" if error.__class__.__name__.startswith("Login") else "sso login"
        return AccessError(
            f"{context}: the sign-in has expired or was never made; run `aws {command}{option}`"
        )
    if isinstance(error, botocore.ClientError):
        details = error.response.get("Error", {})
        code, text = details.get("Code", "unknown"), details.get("Message", "")
        message = f"{context}: {error.operation_name} was refused: {code}: {text}".rstrip(": ")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        failed = code in _THROTTLED_CODES or status >= 500
        return ServerError(message) if failed else AccessError(message)
    if isinstance(error, botocore.CredentialRetrievalError):
        return AccessError(f"{context}: the source {error.kwargs['provider']!r} returned none")
    if isinstance(error, (botocore.NoCredentialsError, botocore.PartialCredentialsError)):
        return AccessError(
            f"{context}: there are none; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            f"or name a profile that has some ({type(error).__name__})"
        )
    return OptionsError(f"{context}: {error}")


def _connection_error(error: botocore.BotoCoreError, context: str) -> TransferError:
    """Return the error for a credential service that could not be reached."""
    service = urlsplit(error.kwargs.get("endpoint_url", "")).netloc.rpartition("@")[2]
    service = f"the credential service {service}".rstrip()
    if isinstance(error, (botocore.ConnectTimeoutError, botocore.ReadTimeoutError)):
        return StalledError(f"{context}: {service} did not respond in time")
    cause = getattr(error.kwargs.get("error"), "os_error", None)
    if isinstance(error, botocore.SSLError):
        return AccessError(
            f"{context}: the certificate of {service} is not trusted; "
            "name its CA bundle in AWS_CA_BUNDLE"
        )
    if isinstance(error, botocore.ProxyConnectionError):
        return NetworkError(f"{context}: the proxy for the credential service did not connect")
    reason = failure_reason(cause) if cause is not None else type(error).__name__
    return NetworkError(f"{context}: {service} cannot be reached: {reason}")


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
            with anyio.fail_after(_LOOKUP_SECONDS):
                if self._source is None:
                    session = await anyio.to_thread.run_sync(self._new_session)
                    self._source = await session.get_credentials()
                if self._source is None:
                    raise botocore.NoCredentialsError
                frozen = await self._source.get_frozen_credentials()
        except (botocore.BotoCoreError, botocore.ClientError) as error:
            raise botocore_error(error, _CONTEXT, profile=self._session.profile) from error
        except TimeoutError as error:
            raise StalledError(
                f"{_CONTEXT}: no source returned any within {_LOOKUP_SECONDS:.0f} s"
            ) from error
        except OSError as error:  # such as the token file of a web identity
            name = f": {error.filename}" if error.filename else ""
            raise AccessError(f"{_CONTEXT}: {error.strerror or error}{name}") from error
        except (KeyError, TypeError, ValueError) as error:
            # The text can be part of what a process or a service has printed, so of a secret.
            raise AccessError(
                f"{_CONTEXT}: a source returned something else than credentials "
                f"({type(error).__name__}); check the profile"
            ) from None
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def _new_session(self) -> AioSession:
        """Return a session with the present content of environment and files."""
        session = AioSession(profile=self._profile)
        session.set_default_client_config(
            AioConfig(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"total_max_attempts": _ATTEMPTS},
            )
        )
        session.full_config  # noqa: B018 - the property caches the files, so that no loop reads them
        return session

    def aws_endpoint(self, bucket: str, region: str, *, path_style: bool) -> tuple[str, str]:
        """Return the URL of `bucket` at AWS and the region to sign for.

        The first call reads botocore's endpoint rules from disk.

        Raises:
            OptionsError: if no AWS endpoint fits the region and the configuration.
            UnsupportedError: if the bucket needs a signature other than version 4.
        """
        url, signed_region, _ = self._resolve(bucket, Region=region, ForcePathStyle=path_style)
        return url, signed_region

    def arn_endpoint(self, arn: str, endpoint_url: str | None) -> tuple[str, str, str]:
        """Return the URL of an access point, and the region and the service to sign for.

        Args:
            arn: of an access point, an access point of an outpost, or an object Lambda access
                point. https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-points-naming.html
            endpoint_url: the configured one; None for that of AWS.

        Raises:
            OptionsError: if the ARN is malformed or does not fit the configuration.
            UnsupportedError: if the access point spans several regions.
        """
        region = arn.split(":")[3]
        if not region:
            raise UnsupportedError(
                f"s3://{arn}/: multi-region access points require another signature (SigV4A), "
                "which is not supported; use a bucket or an access point of one region"
            )
        given = {} if endpoint_url is None else {"Endpoint": endpoint_url}
        return self._resolve(arn, Region=region, ForcePathStyle=False, **given)

    def _resolve(self, bucket: str, **parameters: object) -> tuple[str, str, str]:
        """Return the URL of `bucket`, and the region and service to sign for, by the rules.

        Args:
            bucket: its name or ARN.
            parameters: of the rules, with the region among them.
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
                UseFIPS=bool(self._session.get_config_variable("use_fips_endpoint")),
                UseDualStack=self._is_set("use_dualstack_endpoint"),
                Accelerate=self._is_set("use_accelerate_endpoint"),
                UseGlobalEndpoint=False,
                UseArnRegion=True,
                DisableMultiRegionAccessPoints=True,
                **parameters,
            )
        except botocore.BotoCoreError as error:
            raise botocore_error(error, f"s3://{bucket}/") from error
        schemes: Sequence[Mapping[str, Any]] = resolved.properties.get("authSchemes", ())
        scheme = next((scheme for scheme in schemes if scheme["name"] == "sigv4"), None)
        if scheme is None and schemes:
            raise UnsupportedError(
                f"s3://{bucket}/: this kind of bucket requires the signature "
                f"{schemes[0]['name']!r}, which is not supported; use a general purpose bucket"
            )
        scheme = scheme or {}
        region = scheme.get("signingRegion", parameters["Region"])
        return resolved.url, region, scheme.get("signingName", "s3")

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
