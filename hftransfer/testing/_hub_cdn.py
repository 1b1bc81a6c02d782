"""The CDN of the Hub: signed URLs that expire, and the files that they serve.

URLs have CloudFront's form with a custom policy, as those of the Hub's LFS bridge: `Expires`,
`Policy`, `Signature` and `Key-Pair-Id` in the query. The signature covers the path and the whole
query as sent. As on the real CDN, a URL that a client re-encoded or reordered is rejected.
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

from hftransfer.testing._responses import FileBody, Request, Response

if TYPE_CHECKING:
    from hftransfer.testing._content import Blob
    from hftransfer.testing._repositories import Repo

_CLOUDFRONT_ALPHABET = str.maketrans("+=/", "-_~")
_FROM_CLOUDFRONT = str.maketrans("-_~", "+=/")


class UrlSigner:
    """Signs URLs with the current key; `rotate` invalidates all earlier URLs."""

    def __init__(self) -> None:
        self._serial = itertools.count(1)
        self._secret = b""
        self._key_id = ""
        self.rotate()

    def rotate(self) -> None:
        """Replace the key."""
        self._secret = secrets.token_bytes(32)
        self._key_id = f"K{next(self._serial):013d}"

    def sign(self, path: str, query: str, *, expires: float, expected_range: str | None) -> str:
        """Return a target (path and query) that is valid until `expires`.

        Args:
            path: percent-encoded path.
            query: percent-encoded query, to which the signature is appended.
            expires: seconds since the epoch.
            expected_range: Range header that every request must have; `None` for any or none.
        """
        condition: dict[str, object] = {"DateLessThan": {"AWS:EpochTime": expires}}
        if expected_range is not None:
            condition["ByteRange"] = {"ExpectedHeader": expected_range}
        policy = json.dumps({"Statement": [{"Resource": path, "Condition": condition}]})
        target = f"{path}?{query}&Expires={math.ceil(expires)}&Policy={_encode(policy.encode())}"
        return f"{target}&Signature={self._signature(target)}&Key-Pair-Id={self._key_id}"

    def rejection(self, target: str, range_header: str | None, *, now: float) -> str | None:
        """Return why a request is rejected, or `None` if its URL is valid.

        Args:
            target: path and query exactly as received.
            range_header: the request's Range header.
            now: seconds since the epoch.
        """
        signed, separator, rest = target.partition("&Signature=")
        if not separator:
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
        expected = condition.get("ByteRange", {}).get("ExpectedHeader", range_header)
        return None if expected == range_header else "Auth failed: invalid range"

    def _signature(self, target: str) -> str:
        return _encode(hmac.digest(self._secret, target.encode(), "sha256"))


class Cdn:
    """Signs the URLs of LFS files and responds to requests for them.

    Args:
        url_lifetime: seconds for which a signed URL is valid; may be changed at any time.
    """

    def __init__(self, *, url_lifetime: float) -> None:
        self.url_lifetime = url_lifetime
        self._lock = threading.Lock()
        self._signer = UrlSigner()
        self._objects: dict[str, tuple[str, Blob]] = {}

    def expire_urls(self) -> None:
        """Reject every URL signed so far."""
        with self._lock:
            self._signer.rotate()

    def signed_target(self, repo: Repo, path: str, blob: Blob, *, range_header: str | None) -> str:
        """Return path and query of a new signed URL for the file `path` of `repo`.

        If the `resolve` request had a Range header, the URL serves that range only.
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

    def respond(self, request: Request) -> Response:
        """Return a response with the whole file of a signed URL, or with an error."""
        with self._lock:
            file, blob = self._objects.get(request.path, (None, None))
            reason = self._signer.rejection(request.target, request.range, now=time.time())
        if request.method not in ("GET", "HEAD"):
            return _error(405, "MethodNotAllowed", "only GET and HEAD are served here", file)
        if "Authorization" in request.headers:
            # As S3 for a signed URL. Here it also detects a client that leaks the Hub token.
            message = "Only one auth mechanism allowed; the Authorization header must not be sent"
            return _error(400, "InvalidArgument", message, file)
        if reason is not None:
            return _error(403, "AccessDenied", reason, file)
        if blob is None:
            return _error(404, "NoSuchKey", "no such object", file)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": parse_qs(request.query)["response-content-disposition"][0],
            "ETag": f'"{request.path.rpartition("/")[2]}"',
            "Accept-Ranges": "bytes",
            "Cache-Control": "public, max-age=31536000",
        }
        return Response(200, headers, FileBody(blob.source, 0, blob.size, blob.size), file)


def cdn_path(repo: Repo, path: str, blob: Blob) -> str:
    """Return the path of the CDN's URL for the file `path` of `repo`."""
    # The real CDN names a content by its Xet hash: 64 hex digits that are not its sha256.
    content_id = hashlib.sha256(f"xet\0{path}\0{blob.sha256}".encode()).hexdigest()
    return f"/xet-bridge-us/{repo.storage_id}/{content_id}"


def _error(status: int, code: str, message: str, file: str | None) -> Response:
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>{error}'.encode()
    return Response(status, {"Content-Type": "text/xml"}, body, file)


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode().translate(_CLOUDFRONT_ALPHABET)


def _decode(value: str) -> bytes:
    return base64.b64decode(value.translate(_FROM_CLOUDFRONT))
