"""AWS signature version 4 in the headers of a request. No I/O.

Bodies are not signed (``UNSIGNED-PAYLOAD``), so that they are not hashed with SHA-256; TLS and
checksums protect them instead. The signing key is derived once per day and region.
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

__all__ = ("Credentials", "Signer", "canonical_query", "encoded_path")

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True)
class Credentials:
    """The keys that sign requests."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """Session token of temporary credentials."""


def encoded_path(text: str) -> str:
    """Return `text` percent-encoded for a URL's path, which the signature covers."""
    return quote(text, safe="/")


def canonical_query(query: Mapping[str, str]) -> str:
    """Return `query` percent-encoded and sorted, as the signature requires."""
    pairs = [(quote(name, safe=""), quote(value, safe="")) for name, value in query.items()]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


class Signer:
    """Signs requests to one region as one identity.

    Args:
        credentials: of that identity.
        region: the only one that accepts the signatures.
        service: the only one that accepts the signatures. Default S3.
    """

    def __init__(self, credentials: Credentials, region: str, service: str = "s3") -> None:
        self.credentials = credentials
        self._scope_suffix = f"{region}/{service}/aws4_request"
        self._day = ""  # that the HMAC key below is derived for, YYYYMMDD
        self._inner, self._outer = _hmac_states(b"")

    def sign(
        self,
        method: str,
        host: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        *,
        now: float,
    ) -> dict[str, str]:
        """Return `headers` and those that sign the request.

        Args:
            method: HTTP method.
            host: value of the Host header; it names the port unless that is the scheme's default.
            path: encoded by `encoded_path`.
            query: encoded by `canonical_query`.
            headers: all of them are signed.
            now: seconds since the epoch by the server's clock.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        signed = {**headers, "x-amz-content-sha256": _UNSIGNED, "x-amz-date": stamp}
        if self.credentials.token is not None:
            signed["x-amz-security-token"] = self.credentials.token
        canonical = {name.lower(): " ".join(value.split()) for name, value in signed.items()}
        canonical["host"] = host
        names = sorted(canonical)
        signed_names = ";".join(names)
        lines = "".join([f"{name}:{canonical[name]}\n" for name in names])
        request = f"{method}\n{path}\n{query}\n{lines}\n{signed_names}\n{_UNSIGNED}"
        scope = f"{stamp[:8]}/{self._scope_suffix}"
        digest = hashlib.sha256(request.encode()).hexdigest()
        string_to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}"
        if stamp[:8] != self._day:
            self._derive_key(stamp[:8])
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(string_to_sign.encode())
        outer.update(inner.digest())
        signature = outer.hexdigest()
        signed["Authorization"] = (
            f"{_ALGORITHM} Credential={self.credentials.access_key}/{scope}, "
            f"SignedHeaders={signed_names}, Signature={signature}"
        )
        return signed

    def _derive_key(self, day: str) -> None:
        key = f"AWS4{self.credentials.secret_key}".encode()
        for part in (day, *self._scope_suffix.split("/")):
            key = hmac.digest(key, part.encode(), "sha256")
        self._inner, self._outer = _hmac_states(key)
        self._day = day


def _hmac_states(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """Return the inner and the outer hash of HMAC-SHA-256 (RFC 2104), keyed with `key`.

    `hmac.digest` releases the GIL for a few microseconds of work, and then the event loop
    waits until another thread returns it.

    Args:
        key: at most 64 bytes, the block size of SHA-256.
    """
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
    return inner, hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))
