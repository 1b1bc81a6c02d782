"""Which S3, and as whom.

Where variables say all there is to say, they are read here; whatever else there may be,
profiles, files, roles, services that give credentials, is for botocore to find, which takes
longer to load than many a transfer takes. Making an `Account` may read files and belongs
into a worker thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from hftransfer.errors import OptionsError
from hftransfer.options import S3Options
from hftransfer.stores.s3.signing import Credentials, encoded_path

if TYPE_CHECKING:
    from hftransfer.stores.s3.botocore import CredentialResolver

__all__ = ("Account", "BucketEndpoint")

_DEFAULT_REGION = "us-east-1"
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")
# What makes more of the variables than their values.
_UNUSUAL = (
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CREDENTIAL_EXPIRATION"),
    *("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_DATA_PATH"),
)
_FILES = (
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
)


@dataclass(frozen=True)
class BucketEndpoint:
    """Where the requests for one bucket go."""

    origin: str
    """Scheme and host."""
    host: str
    """As in the Host header."""
    prefix: str
    """Of every path, without a slash at its end: ``/bucket``, or nothing."""
    region: str
    """For which requests are signed."""


@dataclass(frozen=True)
class _Variables:
    """What the environment says of an account about which nothing else says anything."""

    region: str | None
    endpoint_url: str | None
    ca_bundle: str | None
    credentials: Credentials | None
    """None where requests are not signed."""


def _only_variables(options: S3Options, environ: Mapping[str, str]) -> _Variables | None:
    """Return what variables say, or None if there may be more to say or to find than that."""
    if options.profile is not None or any(environ.get(name) for name in _UNUSUAL):
        return None
    if any(_exists(environ.get(name) or default) for name, default in _FILES):
        return None
    credentials = None
    if options.access_key_id is not None and options.secret_access_key is not None:
        credentials = Credentials(
            options.access_key_id, options.secret_access_key, options.session_token
        )
    elif not options.anonymous:
        key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
        if not key or not secret:
            return None
        # In this order, for botocore's sake.
        token = environ.get("AWS_SECURITY_TOKEN") or environ.get("AWS_SESSION_TOKEN")
        credentials = Credentials(key, secret, token or None)
    return _Variables(
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION"),
        endpoint_url=environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL"),
        ca_bundle=environ.get("AWS_CA_BUNDLE"),
        credentials=credentials,
    )


def _exists(path: str) -> bool:
    return path != os.devnull and Path(os.path.expandvars(path)).expanduser().exists()


class Account:
    """One identity at one endpoint."""

    def __init__(self, options: S3Options) -> None:
        """Read the environment and, where there are any, the configuration files. Blocks.

        Raises:
            OptionsError: if a profile, region or endpoint cannot be used.
        """
        self._options = options
        self._finder: CredentialResolver | None = None
        found: _Variables | CredentialResolver | None = _only_variables(options, os.environ)
        self._s3: Mapping[str, Any] = {}
        if found is None:
            found = self._ready_finder()
            self._s3 = found.s3
        self.region = options.region_name or found.region or _DEFAULT_REGION
        self.endpoint_url = options.endpoint_url or found.endpoint_url
        self.verify = found.ca_bundle if options.verify is None else options.verify
        if self.endpoint_url is not None and not _is_http(self.endpoint_url):
            raise OptionsError(f"S3 options: {self.endpoint_url!r} is not an http(s) URL")
        if not _REGION.fullmatch(self.region):
            raise OptionsError(f"S3 options: {self.region!r} is not a region")
        self._current: Credentials | None = None
        self._lock = anyio.Lock()

    def _ready_finder(self) -> CredentialResolver:
        if self._finder is None:
            from hftransfer.stores.s3.botocore import CredentialResolver

            self._finder = CredentialResolver(self._options.profile)
        return self._finder

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
                if self._finder is not None:
                    self._finder.forget()
                self._current = await self._fetch()
            return self._current != refused

    def _is_due(self) -> bool:
        return self._finder is not None and self._finder.is_due()

    async def _fetch(self) -> Credentials:
        options = self._options
        if options.access_key_id is not None and options.secret_access_key is not None:
            return Credentials(
                options.access_key_id, options.secret_access_key, options.session_token
            )
        if self._finder is None:
            variables = await anyio.to_thread.run_sync(_only_variables, options, os.environ)
            if variables is not None and variables.credentials is not None:
                return variables.credentials
        finder = await anyio.to_thread.run_sync(self._ready_finder)
        return await finder.credentials()

    def place(self, bucket: str, region: str | None = None) -> BucketEndpoint:
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
            finder = self._ready_finder()
            return _place(*finder.aws_endpoint(bucket, region, path_style=style == "path"))
        parts = urlsplit(self.endpoint_url)
        base, netloc = parts.path.rstrip("/"), parts.netloc.rpartition("@")[2]
        if style == "virtual":
            return _place(f"{parts.scheme}://{bucket}.{netloc}{base}", region)
        return _place(f"{parts.scheme}://{netloc}{base}/{encoded_path(bucket)}", region)


def _place(url: str, region: str) -> BucketEndpoint:
    parts = urlsplit(url)
    host = parts.netloc.lower()
    own_port = {"http": ":80", "https": ":443"}[parts.scheme]
    return BucketEndpoint(
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
