"""An S3 store in memory whose deviations from AWS's protocol are scripted (see `S3Script`)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote

from aiohttp import web

from hftransfer._core.checksums import decode_checksum, element_name, encode_checksum, header_name
from hftransfer._core.plan import parse_content_range, range_header
from hftransfer.testing import _scripted_s3_xml as xml
from hftransfer.testing._hub_thread import ServerThread
from hftransfer.testing._s3_process import ACCESS_KEY, REGION, SECRET_KEY
from hftransfer.testing._s3_script import (
    S3Request,
    S3Script,
    StoredObject,
    checksum_of,
    damaged,
    etag_of_parts,
)

if TYPE_CHECKING:
    from types import TracebackType

    from hftransfer.testing._responses import Host

__all__ = ("ScriptedS3",)

_PAGE = b"<!doctype html><html><head><title>Welcome</title></head><body>It works</body></html>"
_CHECKSUMS = ("CRC32", "CRC64NVME", "XXHASH128")
_MOVED = "/moved"


@dataclass
class _Upload:
    bucket: str
    key: str
    headers: Mapping[str, str]
    algorithm: str
    parts: dict[int, StoredObject] = field(default_factory=dict)


class _RefusalError(Exception):
    """An error response of S3."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(code)
        self.response = web.Response(
            status=status, body=xml.error(code, message), content_type="application/xml"
        )


class ScriptedS3:
    """An S3 store in memory, on loopback: a context manager that starts and stops it.

    It understands what uploads, downloads, listings and copies need, addressed by path, and does
    not verify signatures. Every bucket exists. Example::

        from hftransfer.testing.s3 import S3Script, ScriptedS3

        with ScriptedS3(S3Script(put_conditions=False)) as store:
            options = S3Options(endpoint_url=store.endpoint, overwrite=False, ...)

    Args:
        script: how it deviates from AWS. Default: not at all.

    Attributes:
        script: as above; may be changed at any time.
        objects: by bucket and key; may be changed between two requests.
        requests: all that were received, in order.
    """

    access_key = ACCESS_KEY
    secret_key = SECRET_KEY
    region = REGION

    def __init__(self, script: S3Script | None = None) -> None:
        self.script = script or S3Script()
        self.objects: dict[tuple[str, str], StoredObject] = {}
        self.requests: list[S3Request] = []
        self._uploads: dict[str, _Upload] = {}
        self._count = 0
        self._thread: ServerThread | None = None

    def __enter__(self) -> ScriptedS3:
        self._thread = ServerThread(self._respond, None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._thread is not None
        self._thread.stop()

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:PORT``, while it runs."""
        assert self._thread is not None, "ScriptedS3 is not running"
        return f"http://127.0.0.1:{self._thread.hub_port}"

    def client_environ(self) -> dict[str, str]:
        """Return ``AWS_*`` environment variables that make an AWS client use this store only."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def put(self, bucket: str, key: str, data: bytes, *, part_size: int | None = None) -> None:
        """Store an object that has no checksum but its ETag.

        Args:
            bucket: any name.
            key: of the object.
            data: its bytes.
            part_size: store it as a multipart upload of parts of so many bytes. Default: one PUT.
        """
        if part_size is None:
            self.objects[bucket, key] = StoredObject(data, self._etag(data))
            return
        parts = [data[start : start + part_size] for start in range(0, len(data), part_size)]
        etag = etag_of_parts([hashlib.md5(part).hexdigest() for part in parts])
        sizes = tuple(len(part) for part in parts)
        self.objects[bucket, key] = StoredObject(data, etag, parts=sizes)

    def open_uploads(self) -> Sequence[tuple[str, str]]:
        """Return bucket and key of every multipart upload in progress."""
        return [(upload.bucket, upload.key) for upload in self._uploads.values()]

    def uploads_of(self, bucket: str, key: str) -> Sequence[str]:
        """Return the ids of the multipart uploads of one object that are in progress."""
        return [
            upload_id
            for upload_id, upload in self._uploads.items()
            if (upload.bucket, upload.key) == (bucket, key)
        ]

    def _etag(self, data: bytes) -> str:
        digest = hashlib.md5(data).hexdigest()
        if self.script.etags == "md5":
            return digest
        self._count += 1
        return f"{self._count:08d}-of-{digest[::-1]}"

    # --- one request

    async def _respond(self, host: Host, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()  # `request.read` is limited
        path = request.raw_path.partition("?")[0].removeprefix(_MOVED)
        bucket, _, key = unquote(path.lstrip("/")).partition("/")
        query = dict(request.query)
        received: Literal["store", "cdn"] = "store" if host == "hub" else "cdn"
        headers = request.headers
        self.requests.append(S3Request(received, request.method, bucket, key, query, headers))
        if self.script.web_server:
            return web.Response(
                body=_PAGE, headers={"Content-Type": "text/html", "Server": "nginx"}
            )
        if self.script.redirect_requests and not request.raw_path.startswith(_MOVED):
            return web.Response(status=307, headers={"Location": _MOVED + request.raw_path})
        try:
            if self.script.forbidden_reads and request.method in ("GET", "HEAD"):
                raise _RefusalError(403, "AccessDenied")
            if host == "cdn":
                return self._read_cdn(request, bucket, key, query)
            for name in self.script.refused_headers:
                if name in headers:
                    raise _RefusalError(501, "NotImplemented", f"{name} is not implemented")
            response = self._operate(request, bucket, key, query, self._in_transit(request, body))
            publishes = request.method == "PUT" or (
                request.method == "POST" and "uploadId" in query
            )
            if publishes and self.script.lost_responses:
                self.script.lost_responses -= 1
                assert request.transport is not None
                request.transport.abort()
            return response
        except _RefusalError as refusal:
            return refusal.response

    def _in_transit(self, request: web.BaseRequest, body: bytes) -> bytes:
        """Return the body of a request as the store receives it."""
        if request.method == "PUT" and body and self.script.damaged_uploads:
            self.script.damaged_uploads -= 1
            return damaged(body)
        return body

    def _operate(
        self, request: web.BaseRequest, bucket: str, key: str, query: dict[str, str], body: bytes
    ) -> web.Response:
        method = request.method
        if not key:
            if "uploads" in query:
                return self._list_uploads(bucket, query)
            return self._list(bucket, query)
        if method == "POST":
            if "uploads" in query:
                return self._create(request, bucket, key)
            # The condition comes first, as in MinIO: a repeated completion is answered by 412.
            honoured = self.script.complete_conditions
            self._check_absent(request, bucket, key, honoured=honoured)
            return self._complete(request, query, body)
        if "uploadId" in query:
            return self._part(request, query, body)
        if method == "PUT":
            return self._put(request, bucket, key, body)
        if method == "DELETE":
            self.objects.pop((bucket, key), None)
            return web.Response(status=204)
        return self._get(request, bucket, key, query)

    # --- reading

    def _list(self, bucket: str, query: dict[str, str]) -> web.Response:
        prefix = query.get("prefix", "")
        found = [
            (key, self._quoted(stored.etag), len(stored.data))
            for (owner, key), stored in sorted(self.objects.items())
            if owner == bucket and key.startswith(prefix)
        ]
        return _document(xml.listing(found))

    def _get(
        self, request: web.BaseRequest, bucket: str, key: str, query: dict[str, str]
    ) -> web.Response:
        stored = self._stored(bucket, key)
        wanted = request.headers.get("If-Match")
        if wanted is not None and wanted != self._quoted(stored.etag):
            raise _RefusalError(412, "PreconditionFailed")
        if request.method == "GET" and self.script.redirect_reads:
            assert self._thread is not None
            host = f"http://localhost:{self._thread.cdn_port}"
            url = f"{host}/{quote(bucket)}/{quote(key)}?Signature=of-the-cdn"
            return web.Response(status=302, headers={"Location": url})
        return self._send(request, stored, query)

    def _read_cdn(
        self, request: web.BaseRequest, bucket: str, key: str, query: dict[str, str]
    ) -> web.Response:
        if "Authorization" in request.headers or query.get("Signature") != "of-the-cdn":
            raise _RefusalError(400, "InvalidArgument", "only one auth mechanism allowed")
        return self._send(request, self._stored(bucket, key), {}, cdn=True)

    def _send(
        self,
        request: web.BaseRequest,
        stored: StoredObject,
        query: dict[str, str],
        *,
        cdn: bool = False,
    ) -> web.Response:
        headers = {"Accept-Ranges": "bytes"}
        if cdn:
            headers["ETag"] = '"another-etag-of-the-cdn"'
        else:
            headers |= {**stored.headers, **self._etag_header(stored.etag)}
        data, status = stored.data, 200
        total = len(data)
        span = request.headers.get("Range")
        if "partNumber" in query and stored.parts:
            number = int(query["partNumber"])
            start = sum(stored.parts[: number - 1])
            span = range_header(start, start + stored.parts[number - 1])
            headers["x-amz-mp-parts-count"] = str(len(stored.parts))
        if span is not None:
            start, stop, _ = parse_content_range(f"bytes {span[6:]}/*") or (0, total, None)
            data, status = data[start:stop], 206
            headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{total}"
        elif request.headers.get("x-amz-checksum-mode") == "ENABLED" and not cdn:
            headers |= stored.checksums
        if request.method == "HEAD":
            return web.Response(status=200, headers={**headers, "Content-Length": str(len(data))})
        if data and self.script.damaged_downloads:
            self.script.damaged_downloads -= 1
            data = damaged(data)
        return web.Response(status=status, headers=headers, body=data)

    def _stored(self, bucket: str, key: str) -> StoredObject:
        try:
            return self.objects[bucket, key]
        except KeyError:
            raise _RefusalError(404, "NoSuchKey") from None

    # --- writing

    def _put(self, request: web.BaseRequest, bucket: str, key: str, body: bytes) -> web.Response:
        self._check_absent(request, bucket, key, honoured=self.script.put_conditions)
        if "x-amz-copy-source" in request.headers:
            body = self._copied(request)
            stored = StoredObject(body, self._etag(body), self._object_headers(request))
            self.objects[bucket, key] = stored
            if self.script.copies == "ignored":
                return web.Response(headers=self._etag_header(stored.etag))
            return _document(xml.copied("CopyObjectResult", self._quoted(stored.etag)))
        checksums = self._checked(request, body)
        stored = StoredObject(body, self._etag(body), self._object_headers(request), checksums)
        self.objects[bucket, key] = stored
        return web.Response(headers={**self._etag_header(stored.etag), **checksums})

    def _check_absent(
        self, request: web.BaseRequest, bucket: str, key: str, *, honoured: bool
    ) -> None:
        if honoured and "If-None-Match" in request.headers and (bucket, key) in self.objects:
            raise _RefusalError(412, "PreconditionFailed")

    def _copied(self, request: web.BaseRequest) -> bytes:
        """Return the bytes that a copy names."""
        if self.script.copies == "refused":
            raise _RefusalError(501, "NotImplemented")
        if self.script.copies == "ignored":
            return b""
        named = request.headers["x-amz-copy-source"]
        if self.script.copies == "yes":
            named = unquote(named)
        bucket, _, key = named.lstrip("/").partition("/")
        stored = self._stored(bucket, key)
        wanted = request.headers.get("x-amz-copy-source-if-match")
        if wanted is not None and wanted != self._quoted(stored.etag):
            raise _RefusalError(412, "PreconditionFailed")
        span = request.headers.get("x-amz-copy-source-range")
        if span is None:
            return stored.data
        first, _, last = span.removeprefix("bytes=").partition("-")
        return stored.data[int(first) : int(last) + 1]

    def _checked(self, request: web.BaseRequest, body: bytes) -> dict[str, str]:
        """Verify the checksums of a request; return those to store and to repeat."""
        md5 = request.headers.get("Content-MD5")
        found = base64.b64encode(hashlib.md5(body).digest()).decode()
        if md5 is not None and self.script.content_md5 and md5 != found:
            raise _RefusalError(400, "BadDigest")
        if not self.script.checksums:
            return {}
        stated = {}
        for name in _CHECKSUMS:
            value = request.headers.get(header_name(name))
            if value is None:
                continue
            if decode_checksum(name, value) != checksum_of(name, body):
                raise _RefusalError(400, "XAmzContentChecksumMismatch")
            stated[header_name(name)] = value
        return stated

    def _object_headers(self, request: web.BaseRequest) -> dict[str, str]:
        headers = {"content-type": request.headers.get("Content-Type", "binary/octet-stream")}
        if self.script.metadata:
            lowered = {name.lower(): value for name, value in request.headers.items()}
            headers |= {
                name: value for name, value in lowered.items() if name.startswith("x-amz-meta-")
            }
        return headers

    def _quoted(self, etag: str) -> str:
        return "" if self.script.etags == "none" else f'"{etag}"'

    def _etag_header(self, etag: str) -> dict[str, str]:
        return {} if self.script.etags == "none" else {"ETag": f'"{etag}"'}

    # --- multipart uploads

    def _list_uploads(self, bucket: str, query: dict[str, str]) -> web.Response:
        prefix = query.get("prefix", "")
        found = [
            (upload.key, upload_id)
            for upload_id, upload in self._uploads.items()
            if upload.bucket == bucket and upload.key.startswith(prefix)
        ]
        return _document(xml.uploads(found))

    def _create(self, request: web.BaseRequest, bucket: str, key: str) -> web.Response:
        self._count += 1
        upload_id = f"upload-{self._count}"
        algorithm = request.headers.get("x-amz-checksum-algorithm", "")
        if not self.script.checksums:
            algorithm = ""
        self._uploads[upload_id] = _Upload(bucket, key, self._object_headers(request), algorithm)
        return _document(xml.created(bucket, key, upload_id))

    def _part(self, request: web.BaseRequest, query: dict[str, str], body: bytes) -> web.Response:
        upload = self._upload(query)
        if request.method == "DELETE":
            del self._uploads[query["uploadId"]]
            return web.Response(status=204)
        if request.method == "GET":
            shown = upload.algorithm if self.script.part_checksums_listed else ""
            rows = [
                (number, self._quoted(part.etag), len(part.data))
                for number, part in sorted(upload.parts.items())
            ]
            return _document(xml.parts(rows, shown))
        is_copy = "x-amz-copy-source" in request.headers
        if is_copy:
            body = self._copied(request)
        checksums = {} if is_copy else self._checked(request, body)
        if upload.algorithm and not checksums and not self.script.part_checksums_listed:
            raise _RefusalError(400, "InvalidRequest", "the part has no checksum")
        part = StoredObject(body, self._etag(body), checksums=checksums)
        upload.parts[int(query["partNumber"])] = part
        if is_copy and self.script.copies != "ignored":
            return _document(xml.copied("CopyPartResult", self._quoted(part.etag)))
        return web.Response(headers={**self._etag_header(part.etag), **checksums})

    def _upload(self, query: dict[str, str]) -> _Upload:
        try:
            return self._uploads[query["uploadId"]]
        except KeyError:
            raise _RefusalError(404, "NoSuchUpload") from None

    def _complete(
        self, request: web.BaseRequest, query: dict[str, str], body: bytes
    ) -> web.Response:
        upload = self._upload(query)
        numbers = xml.completed_numbers(body)
        if not numbers or any(number not in upload.parts for number in numbers):
            raise _RefusalError(400, "InvalidPart")
        parts = [upload.parts[number] for number in numbers]
        data = b"".join(part.data for part in parts)
        sizes = tuple(len(part.data) for part in parts)
        checksums = {}
        if upload.algorithm:
            name = header_name(upload.algorithm)
            checksums[name] = encode_checksum(checksum_of(upload.algorithm, data))
            if request.headers.get(name, checksums[name]) != checksums[name]:
                raise _RefusalError(400, "BadDigest")
        etag = etag_of_parts([hashlib.md5(part.data).hexdigest() for part in parts])
        if self.script.etags != "md5":
            etag = self._etag(data)
        self.objects[upload.bucket, upload.key] = StoredObject(
            data, etag, upload.headers, checksums, sizes
        )
        del self._uploads[query["uploadId"]]
        shown = {element_name(upload.algorithm): value for value in checksums.values()}
        return _document(xml.completed(self._quoted(etag), shown))


def _document(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/xml")
