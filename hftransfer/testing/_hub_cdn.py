"""The CDN behind the Hub: signed URLs that expire, and the files behind them.

The shape is CloudFront's with a custom policy, which is what the Hub's LFS bridge uses: `Expires`,
`Policy`, `Signature`, `Key-Pair-Id` in the query. The signature covers the path and the whole
query as sent, so a client that re-encodes or reorders the URL is refused, as on the real CDN.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import math
import secrets
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote

from hftransfer.testing._responses import Answer, Call, FileBody

if TYPE_CHECKING:
    from hftransfer.testing._content import Blob
    from hftransfer.testing._repositories import Repo

_CLOUDFRONT_ALPHABET = str.maketrans("+=/", "-_~")
_FROM_CLOUDFRONT = str.maketrans("-_~", "+=/")


class UrlSigner:
    """Signs URLs with one key pair at a time; `rotate` makes all earlier URLs invalid."""

    def __init__(self) -> None:
        self._serial = itertools.count(1)
        self._secret = b""
        self._key_id = ""
        self.rotate()

    def rotate(self) -> None:
        """Replace the key pair."""
        self._secret = secrets.token_bytes(32)
        self._key_id = f"K{next(self._serial):013d}"

    def sign(self, path: str, query: str, *, expires: float, expected_range: str | None) -> str:
        """Return the target (path and query) to be requested until the time `expires`.

        Args:
            path: Percent-encoded path.
            query: Percent-encoded query to which the signature is appended.
            expires: Seconds since the epoch.
            expected_range: Range header that every request must then carry, or `None`.
        """
        condition: dict[str, object] = {"DateLessThan": {"AWS:EpochTime": expires}}
        if expected_range is not None:
            condition["ByteRange"] = {"ExpectedHeader": expected_range}
        policy = json.dumps({"Statement": [{"Resource": path, "Condition": condition}]})
        target = f"{path}?{query}&Expires={math.ceil(expires)}&Policy={_encode(policy.encode())}"
        return f"{target}&Signature={self._signature(target)}&Key-Pair-Id={self._key_id}"

    def refusal(self, target: str, range_header: str | None, *, now: float) -> str | None:
        """Return why a request is refused, or `None` if its URL is good.

        Args:
            target: Path and query exactly as received.
            range_header: The request's Range header.
            now: Seconds since the epoch.
        """
        signed, found, rest = target.partition("&Signature=")
        if not found:
            return "Missing Key-Pair-Id query parameter or cookie value"
        signature, _, key_id = rest.partition("&Key-Pair-Id=")
        if key_id != self._key_id:
            return "Auth failed: unknown key"
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            return "Auth failed: invalid signature"
        policy = parse_qs(signed.partition("?")[2])["Policy"][0]
        condition = json.loads(_decode(policy))["Statement"][0]["Condition"]
        if now >= condition["DateLessThan"]["AWS:EpochTime"]:
            return "Auth failed: expired"
        bound = condition.get("ByteRange", {}).get("ExpectedHeader", range_header)
        return None if bound == range_header else "Auth failed: invalid range"

    def _signature(self, target: str) -> str:
        return _encode(hmac.digest(self._secret, target.encode(), "sha256"))


class Cdn:
    """Signs and answers URLs of LFS files.

    Args:
        url_lifetime: Seconds for which a signed URL is valid; may be changed at any time.
    """

    def __init__(self, *, url_lifetime: float) -> None:
        self.url_lifetime = url_lifetime
        self._lock = threading.Lock()
        self._signer = UrlSigner()
        self._objects: dict[str, tuple[str, Blob]] = {}

    def expire_urls(self) -> None:
        """Refuse every URL signed so far."""
        with self._lock:
            self._signer.rotate()

    def signed_target(self, repo: Repo, path: str, blob: Blob, *, range_header: str | None) -> str:
        """Return path and query of a fresh signed URL for the file `path` of `repo`.

        A Range header on the request that asked for the URL binds the URL to that range.
        """
        location = cdn_path(repo, path, blob)
        name = path.rpartition("/")[2]
        disposition = f"inline; filename*=UTF-8''{quote(name)}; filename=\"{quote(name)}\";"
        query = f"response-content-disposition={quote(disposition, safe='')}"
        with self._lock:
            self._objects[location] = (f"{repo.repo_id}/{path}", blob)
            return self._signer.sign(
                location,
                f"{query}&response-content-type=application%2Foctet-stream",
                expires=time.time() + self.url_lifetime,
                expected_range=range_header,
            )

    def answer(self, call: Call) -> Answer:
        """Return the whole file behind a signed URL, or why not."""
        with self._lock:
            file, blob = self._objects.get(call.path, (None, None))
            refusal = self._signer.refusal(call.target, call.range, now=time.time())
        if call.method not in ("GET", "HEAD"):
            return _refusal(405, "MethodNotAllowed", "only GET and HEAD are served here", file)
        if "Authorization" in call.headers:
            # S3 behind a signed URL answers so too; here it also catches a leaked Hub token.
            message = "Only one auth mechanism allowed; the Authorization header must not be sent"
            return _refusal(400, "InvalidArgument", message, file)
        if refusal is not None:
            return _refusal(403, "AccessDenied", refusal, file)
        if blob is None:
            return _refusal(404, "NoSuchKey", "no such object", file)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": parse_qs(call.query)["response-content-disposition"][0],
            "ETag": f'"{call.path.rpartition("/")[2]}"',
            "Accept-Ranges": "bytes",
            "Cache-Control": "public, max-age=31536000",
        }
        return Answer(200, headers, FileBody(blob.source, 0, blob.size, blob.size), file)


def cdn_path(repo: Repo, path: str, blob: Blob) -> str:
    """Return the path of the CDN's URL for the file `path` of `repo`."""
    # The real CDN's name for a content is its Xet hash: 64 hex digits that are not the sha256.
    content_id = hashlib.sha256(f"xet\0{path}\0{blob.sha256}".encode()).hexdigest()
    return f"/xet-bridge-us/{repo.storage_id}/{content_id}"


def _refusal(status: int, code: str, message: str, file: str | None) -> Answer:
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>{error}'.encode()
    return Answer(status, {"Content-Type": "text/xml"}, body, file)


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode().translate(_CLOUDFRONT_ALPHABET)


def _decode(value: str) -> bytes:
    return base64.b64decode(value.translate(_FROM_CLOUDFRONT))
