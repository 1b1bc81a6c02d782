"""Which S3, and as whom: what aiobotocore finds in the environment, in files and on the network.

The one module that uses aiobotocore and botocore. Making an `Account` reads files and
belongs into a worker thread. Credentials are fetched and renewed on the event loop, from
wherever botocore knows to look for them: variables, profiles, containers, instance
metadata, web identity, SSO, processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio
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
from hftransfer.options import S3Options
from hftransfer.stores.s3_signing import Credentials, encoded_path

__all__ = ("Account", "Place", "botocore_error")

_DEFAULT_REGION = "us-east-1"
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")

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


@dataclass(frozen=True)
class Place:
    """Where the requests for one bucket go."""

    origin: str
    """Scheme and host."""
    host: str
    """As in the Host header."""
    prefix: str
    """Of every path, without a slash at its end: ``/bucket``, or nothing."""
    region: str
    """For which requests are signed."""


class Account:
    """One identity at one endpoint; made by `open`."""

    def __init__(self, options: S3Options) -> None:
        """Read the environment and the configuration files. Blocks; nothing is sent.

        Raises:
            OptionsError: if a profile, region or endpoint cannot be used.
        """
        self._options = options
        try:
            self._session = AioSession(profile=options.profile)
            scoped = self._session.get_scoped_config()
            self._s3: Mapping[str, Any] = self._session.get_config_variable("s3") or {}
            self.region = (
                options.region_name
                or os.environ.get("AWS_REGION")
                or self._session.get_config_variable("region")
                or _DEFAULT_REGION
            )
            self.endpoint_url = options.endpoint_url or _endpoint(self._session, scoped)
            self.verify = options.verify
            if self.verify is None:
                self.verify = self._session.get_config_variable("ca_bundle")
        except (botocore.BotoCoreError, ValueError) as error:
            raise botocore_error(error, "S3 options") from error
        if self.endpoint_url is not None and not _is_http(self.endpoint_url):
            raise OptionsError(f"S3 options: {self.endpoint_url!r} is not an http(s) URL")
        if not _REGION.fullmatch(self.region):
            raise OptionsError(f"S3 options: {self.region!r} is not a region")
        self._source: Any = None
        self._current: Credentials | None = None
        self._lock = anyio.Lock()
        self._provider: Any = None

    @property
    def anonymous(self) -> bool:
        return self._options.anonymous

    async def credentials(self) -> Credentials:
        """Return credentials that are valid now, renewed in time by whoever gave them.

        Raises:
            AccessError: if there are none.
            TransientError: if the service that gives them cannot be reached.
        """
        if self._current is None or self._is_due():
            async with self._lock:
                if self._current is None or self._is_due():
                    self._current = await self._fetch()
        return self._current

    async def renewed(self, refused: Credentials) -> bool:
        """Look once more for credentials; return True if there are others than `refused`.

        Raises:
            AccessError, TransientError: as `credentials`.
        """
        async with self._lock:
            if self._current == refused:
                self._source = None
                self._current = await self._fetch()
            return self._current != refused

    def _is_due(self) -> bool:
        # botocore's own credentials with an end know when to ask for new ones.
        due = getattr(self._source, "refresh_needed", None)
        return due is not None and bool(due())

    async def _fetch(self) -> Credentials:
        try:
            return await self._resolve()
        except (botocore.BotoCoreError, botocore.ClientError) as error:
            raise botocore_error(error, "S3 credentials") from error

    async def _resolve(self) -> Credentials:
        options = self._options
        if options.access_key_id is not None and options.secret_access_key is not None:
            return Credentials(
                options.access_key_id, options.secret_access_key, options.session_token
            )
        if self._source is None:
            session = await anyio.to_thread.run_sync(self._reread)
            self._source = await session.get_credentials()
        if self._source is None:
            raise botocore.NoCredentialsError
        frozen = await self._source.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def _reread(self) -> AioSession:
        """Return a session that knows what variables and files say now."""
        session = AioSession(profile=self._options.profile)
        session.full_config  # noqa: B018 - read here, kept for the event loop
        return session

    def place(self, bucket: str, region: str | None = None) -> Place:
        """Return where requests for `bucket` go. Reads files once where the endpoint is AWS's.

        Args:
            bucket: name of the bucket.
            region: of the bucket, if it is known to be another than the configured one.

        Raises:
            OptionsError: if region and configuration fit no endpoint.
            UnsupportedError: if the bucket is of a kind with a protocol of its own.
        """
        region = region or self.region
        style = self._options.addressing_style
        if style == "auto":
            style = self._s3.get("addressing_style", "auto")
        if self.endpoint_url is None:
            return self._aws_place(bucket, region, path_style=style == "path")
        parts = urlsplit(self.endpoint_url)
        base, netloc = parts.path.rstrip("/"), parts.netloc.rpartition("@")[2]
        if style == "virtual":
            return _place(f"{parts.scheme}://{bucket}.{netloc}{base}", region)
        return _place(f"{parts.scheme}://{netloc}{base}/{encoded_path(bucket)}", region)

    def _aws_place(self, bucket: str, region: str, *, path_style: bool) -> Place:
        try:
            if self._provider is None:
                from botocore.endpoint_provider import EndpointProvider

                loader = self._session.get_component("data_loader")
                self._provider = EndpointProvider(
                    loader.load_service_model("s3", "endpoint-rule-set-1"),
                    loader.load_data("partitions"),
                )
            found = self._provider.resolve_endpoint(
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
        return _place(found.url, scheme.get("signingRegion", region))

    def _is_set(self, name: str) -> bool:
        value = self._s3.get(name, self._session.get_config_variable(name))
        return value is True or str(value).lower() == "true"


def _place(url: str, region: str) -> Place:
    parts = urlsplit(url)
    host = parts.netloc.lower()
    own_port = {"http": ":80", "https": ":443"}[parts.scheme]
    return Place(
        origin=f"{parts.scheme}://{parts.netloc}",
        host=host.removesuffix(own_port),
        prefix=parts.path.rstrip("/"),
        region=region,
    )


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


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
