"""The account that requests are sent for: region, endpoint, TLS verification and credentials.

If options and environment variables settle all of these, they are read here. In every other
case (profiles, configuration files, roles, credential services) botocore resolves them, and it
takes longer to import than a small transfer takes to run.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

import anyio
import anyio.to_thread

from hftransfer.errors import AccessError, OptionsError, TransientError, redact
from hftransfer.options import S3Options
from hftransfer.stores.s3.signing import Credentials, encoded_path

if TYPE_CHECKING:
    from hftransfer.stores.s3.botocore import CredentialResolver

__all__ = ("Account", "BucketEndpoint")

_DEFAULT_REGION = "us-east-1"
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")
# Names that can be part of a host name; one with a dot does not match a wildcard certificate.
_HOST_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_HOST_LABELS = re.compile(rf"{_HOST_LABEL.pattern}(?:\.{_HOST_LABEL.pattern})*")
# Variables whose effect depends on more than their own value: botocore has to interpret them.
_BOTOCORE_ONLY_VARIABLES = (
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CREDENTIAL_EXPIRATION"),
    *("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_DATA_PATH"),
)
# The variable that names each file, and the file's default path.
_CONFIGURATION_FILES = (
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
)


@dataclass(frozen=True)
class BucketEndpoint:
    """Where the requests for one bucket are sent."""

    origin: str
    """Scheme and host: ``https://host:port``."""
    host: str
    """Value of the Host header."""
    prefix: str
    """Start of every path, without a trailing slash: ``/bucket`` in path style, else empty."""
    region: str
    """The region that requests are signed for."""
    service: str = "s3"
    """The service that requests are signed for; outposts and object Lambdas have their own."""


@dataclass(frozen=True)
class _EnvironmentSettings:
    """The settings of an account that environment variables describe completely."""

    region: str | None
    endpoint_url: str | None
    ca_bundle: str | None
    credentials: Credentials | None
    """None if requests are anonymous."""
    request_checksums: str | None
    response_checksums: str | None


def _read_environment(
    options: S3Options, environ: Mapping[str, str]
) -> _EnvironmentSettings | None:
    """Return the settings of `environ`, or None if only botocore can resolve the account."""
    if options.profile is not None or any(environ.get(name) for name in _BOTOCORE_ONLY_VARIABLES):
        return None
    if any(_exists(environ.get(name) or default) for name, default in _CONFIGURATION_FILES):
        return None
    endpoint_url = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    credentials = _explicit_credentials(options, endpoint_url)
    if credentials is None and not options.anonymous:
        key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
        if not key or not secret:
            return None
        # botocore prefers the older name, too.
        token = environ.get("AWS_SECURITY_TOKEN") or environ.get("AWS_SESSION_TOKEN")
        credentials = Credentials(key, secret, token or None)
    return _EnvironmentSettings(
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION"),
        endpoint_url=endpoint_url,
        ca_bundle=environ.get("AWS_CA_BUNDLE"),
        credentials=credentials,
        request_checksums=environ.get("AWS_REQUEST_CHECKSUM_CALCULATION"),
        response_checksums=environ.get("AWS_RESPONSE_CHECKSUM_VALIDATION"),
    )


def _explicit_credentials(options: S3Options, endpoint_url: str | None) -> Credentials | None:
    """Return the credentials of the options, or else those in the URL of the endpoint."""
    if options.access_key_id is not None and options.secret_access_key is not None:
        return Credentials(options.access_key_id, options.secret_access_key, options.session_token)
    url = options.endpoint_url or endpoint_url
    if url is None or options.anonymous or options.profile is not None or not _is_http_url(url):
        return None
    parts = urlsplit(url)
    if not parts.username or not parts.password:
        return None
    return Credentials(unquote(parts.username), unquote(parts.password))


def _exists(path: str) -> bool:
    return path != os.devnull and Path(os.path.expandvars(path)).expanduser().exists()


class Account:
    """One identity at one endpoint.

    The constructor reads the environment and, if there are any, the configuration files. It
    blocks, so run it in a worker thread.

    Args:
        options: override what the environment and the files say.

    Raises:
        OptionsError: if the profile, region or endpoint cannot be used.
    """

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._resolver: CredentialResolver | None = None
        self._s3_section: Mapping[str, Any] = {}
        settings: _EnvironmentSettings | CredentialResolver | None
        settings = _read_environment(options, os.environ)
        if settings is None:
            settings = self._load_resolver()
            self._s3_section = settings.s3_section
        self.region = options.region_name or settings.region or _DEFAULT_REGION
        self.endpoint_url = options.endpoint_url or settings.endpoint_url
        self.verify = settings.ca_bundle if options.verify is None else options.verify
        self.verify_setting = _verify_setting(options, settings.ca_bundle)
        """What the user sets to change `verify`, for messages."""
        if self.endpoint_url is not None and not _is_http_url(self.endpoint_url):
            raise OptionsError(
                f"S3 options: the endpoint {redact(self.endpoint_url)!r} is not an http(s) URL; "
                "write it as http://HOST:PORT or https://HOST"
            )
        if not _REGION.fullmatch(self.region):
            raise OptionsError(
                f"S3 options: {self.region!r} is not a region name; "
                f"set region_name or AWS_REGION to one such as {_DEFAULT_REGION}"
            )
        self.request_checksums = _checksum_setting(
            "AWS_REQUEST_CHECKSUM_CALCULATION", settings.request_checksums
        )
        """``when_supported``: uploads carry a checksum if the store verifies it;
        ``when_required``: none, and their MD5 is compared."""
        self.response_checksums = _checksum_setting(
            "AWS_RESPONSE_CHECKSUM_VALIDATION", settings.response_checksums
        )
        """``when_supported``: downloads are compared with what the store states;
        ``when_required``: only `AsyncClient.verify` does so."""
        self._credentials: Credentials | None = None
        # Concurrent requests share one refresh.
        self._refresh_lock = anyio.Lock()

    def _load_resolver(self) -> CredentialResolver:
        """Return the resolver; the first call imports botocore and reads files."""
        if self._resolver is None:
            from hftransfer.stores.s3.botocore import CredentialResolver

            self._resolver = CredentialResolver(self._options.profile)
        return self._resolver

    @property
    def anonymous(self) -> bool:
        """True if requests are sent unsigned."""
        return self._options.anonymous

    async def credentials(self) -> Credentials:
        """Return credentials that are valid now; temporary ones are refreshed before they expire.

        Raises:
            AccessError: if there are none, or the first lookup does not reach the service.
            TransientError: if a later one does not.
        """
        if self._credentials is None or self._needs_refresh():
            async with self._refresh_lock:
                if self._credentials is None or self._needs_refresh():
                    self._credentials = await self._fetch_credentials()
        return self._credentials

    async def replace_credentials(self, rejected: Credentials) -> bool:
        """Look credentials up again; return True if they now differ from `rejected`.

        If another request has replaced them already, nothing is looked up.

        Raises:
            AccessError, TransientError: as `credentials`.
        """
        async with self._refresh_lock:
            if self._credentials == rejected:
                if self._resolver is not None:
                    self._resolver.invalidate()
                self._credentials = await self._fetch_credentials()
            return self._credentials != rejected

    def _needs_refresh(self) -> bool:
        return self._resolver is not None and self._resolver.needs_refresh()

    async def _fetch_credentials(self) -> Credentials:
        explicit = _explicit_credentials(self._options, self.endpoint_url)
        if explicit is not None:
            return explicit
        if self._resolver is None:
            settings = await anyio.to_thread.run_sync(_read_environment, self._options, os.environ)
            if settings is not None and settings.credentials is not None:
                return settings.credentials
        resolver = await anyio.to_thread.run_sync(self._load_resolver)
        try:
            return await resolver.credentials()
        except TransientError as error:
            if self._credentials is not None:
                raise
            # Nothing has worked yet, so this is a wrong configuration rather than an outage.
            raise AccessError(f"{error.message}; check the network and the profile") from error

    def bucket_endpoint(self, bucket: str, region: str | None = None) -> BucketEndpoint:
        """Return where the requests for `bucket` are sent.

        A bucket name that cannot be part of the endpoint's host name is in the path, whatever the
        addressing style: an IP address has no subdomains, and a name with a dot does not match a
        wildcard certificate. Without an endpoint URL, and for an ARN, the first call reads
        botocore's endpoint rules from disk.

        Args:
            bucket: name of the bucket, or ARN of an access point.
            region: of the bucket, if it is not the configured one. An ARN names its own.

        Raises:
            OptionsError: if no AWS endpoint fits the region and the configuration.
            UnsupportedError: if the bucket needs a signature other than version 4.
        """
        if bucket.startswith("arn:"):
            return _parse_endpoint(*self._load_resolver().arn_endpoint(bucket, self.endpoint_url))
        region = region or self.region
        style = self._options.addressing_style
        if style == "auto":
            style = self._s3_section.get("addressing_style", "auto")
        if self.endpoint_url is None:
            resolver = self._load_resolver()
            return _parse_endpoint(
                *resolver.aws_endpoint(bucket, region, path_style=style == "path")
            )
        parts = urlsplit(self.endpoint_url)
        base, netloc = parts.path.rstrip("/"), parts.netloc.rpartition("@")[2]
        if style == "virtual" and _is_virtual_hostable(bucket, parts):
            return _parse_endpoint(f"{parts.scheme}://{bucket}.{netloc}{base}", region)
        return _parse_endpoint(f"{parts.scheme}://{netloc}{base}/{encoded_path(bucket)}", region)


def _verify_setting(options: S3Options, ca_bundle: str | None) -> str:
    if options.verify is not None:
        return "--ca-bundle or S3Options.verify"
    if ca_bundle is not None:
        return "AWS_CA_BUNDLE, or ca_bundle of the profile"
    return "--ca-bundle, S3Options.verify or AWS_CA_BUNDLE"


def _is_virtual_hostable(bucket: str, endpoint: SplitResult) -> bool:
    """Return True if `bucket` can be a part of the endpoint's host name."""
    try:
        ipaddress.ip_address(endpoint.hostname or "")
    except ValueError:
        names = _HOST_LABEL if endpoint.scheme == "https" else _HOST_LABELS
        return names.fullmatch(bucket) is not None
    return False


def _parse_endpoint(url: str, region: str, service: str = "s3") -> BucketEndpoint:
    parts = urlsplit(url)
    host = parts.netloc.lower()
    default_port = {"http": ":80", "https": ":443"}[parts.scheme]
    return BucketEndpoint(
        origin=f"{parts.scheme}://{parts.netloc}",
        host=host.removesuffix(default_port),
        prefix=parts.path.rstrip("/"),
        region=region,
        service=service,
    )


def _checksum_setting(name: str, value: str | None) -> str:
    """Return a setting of the AWS SDKs in lower case; the default is ``when_supported``.

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-dataintegrity.html

    Raises:
        OptionsError: if it has another value than the two that exist.
    """
    setting = (value or "when_supported").lower()
    if setting not in ("when_supported", "when_required"):
        raise OptionsError(
            f"S3 options: {name} is {value!r}; it must be when_supported or when_required"
        )
    return setting


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
