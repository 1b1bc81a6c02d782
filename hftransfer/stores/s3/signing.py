"""Signature version 4 in the headers of a request. Pure: nothing here does I/O.

Bodies are not part of what is signed (``UNSIGNED-PAYLOAD``), so no byte of them is hashed
for it; TLS and checksums guard them. The key that signs is derived once a day and region.
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
    """What signs requests."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """Of temporary credentials."""


def encoded_path(text: str) -> str:
    """Return `text` as it stands in the path of a URL and of the signature alike."""
    return quote(text, safe="/")


def canonical_query(query: Mapping[str, str]) -> str:
    """Return `query` encoded and in the order in which it is signed."""
    pairs = [(quote(name, safe=""), quote(value, safe="")) for name, value in query.items()]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


class Signer:
    """Signs requests to one region as one identity.

    Args:
        credentials: the identity.
        region: for which the signature is valid.
        service: for which the signature is valid.
    """

    def __init__(self, credentials: Credentials, region: str, service: str = "s3") -> None:
        self.credentials = credentials
        self._scope_tail = f"{region}/{service}/aws4_request"
        self._day = ""
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
        """Return `headers` and those that make the request a signed one.

        Args:
            method: HTTP method.
            host: value of the Host header, with the port unless it is the scheme's own.
            path: by `encoded_path`.
            query: by `canonical_query`.
            headers: all of them are signed.
            now: seconds since the epoch, by the server's clock.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        sent = {**headers, "x-amz-content-sha256": _UNSIGNED, "x-amz-date": stamp}
        if self.credentials.token is not None:
            sent["x-amz-security-token"] = self.credentials.token
        signed = {name.lower(): " ".join(value.split()) for name, value in sent.items()}
        signed["host"] = host
        names = sorted(signed)
        listed = ";".join(names)
        lines = "".join([f"{name}:{signed[name]}\n" for name in names])
        request = f"{method}\n{path}\n{query}\n{lines}\n{listed}\n{_UNSIGNED}"
        scope = f"{stamp[:8]}/{self._scope_tail}"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}"
        if stamp[:8] != self._day:
            self._derive(stamp[:8])
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text.encode())
        outer.update(inner.digest())
        signature = outer.hexdigest()
        sent["Authorization"] = (
            f"{_ALGORITHM} Credential={self.credentials.access_key}/{scope}, "
            f"SignedHeaders={listed}, Signature={signature}"
        )
        return sent

    def _derive(self, day: str) -> None:
        key = f"AWS4{self.credentials.secret_key}".encode()
        for part in (day, *self._scope_tail.split("/")):
            key = hmac.digest(key, part.encode(), "sha256")
        self._inner, self._outer = _hmac_states(key)
        self._day = day


def _hmac_states(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """Return the two hashes of HMAC-SHA-256 (RFC 2104) with `key`, at most 64 bytes, in them.

    `hmac.digest` would give up the GIL for some microseconds of work, and an event loop
    that has given it up waits for whichever thread took it.
    """
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
    return inner, hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))
