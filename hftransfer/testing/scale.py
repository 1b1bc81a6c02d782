"""A server of very many, or very large, files that exist nowhere: for tests of scale.

`ScaleServer` answers for an S3 bucket and for a repository on the Hub, both with the same files. It
computes names, contents and digests from a file's number when they are asked for, so a million
files take no time to create and no memory to serve. It is small and fast rather than complete: it
checks no signature and knows the requests of a transfer only. Example::

    with ScaleServer(files=1_000_000, size=100) as server:
        options = TransferOptions(s3=server.s3_options())
        async with AsyncClient(options) as client:
            report = await client.verify(server.url)
        assert report.files == 1_000_000
        assert server.kinds[:2] == ["list", "list"] or server.kinds[1] == "head"

Uploads and copies to any other bucket are accepted and forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit

if TYPE_CHECKING:
    from hftransfer.options import HubOptions, S3Options

__all__ = ("ScaleServer",)

_BUCKET = "scale"
_REPO = "acme/scale"
_COMMIT = "c" * 40
_PAGE_SIZE = 1000
_BLOCK = bytes(1 << 20)
_MAX_KINDS = 10_000
_REASONS = {200: "OK", 206: "Partial Content", 404: "Not Found"}


class ScaleServer:
    """Serves `files` files of `size` bytes each on loopback, from its own thread.

    A context manager. File number ``i`` is named ``data/IIII/IIIIIII.bin``: 1,000 files per
    folder, sorted by number. The content of a file of up to 1 MiB begins with its name; a larger
    one is all zeros, has no digest, and is made while it is sent.

    Args:
        files: how many.
        size: bytes of each.
        first: number of the first file; files ``first`` to ``first + files - 1`` exist.
    """

    def __init__(self, *, files: int, size: int = 100, first: int = 0) -> None:
        self.files = files
        self.size = size
        self.first = first
        self.counts: Counter[str] = Counter()
        """Requests by kind: ``list`` (S3) and ``tree`` (Hub) for pages, ``get``, ``head``, ``put``,
        ``copy`` and ``revision``."""
        self.kinds: list[str] = []
        """The kinds of the first 10,000 requests in order of arrival."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="hftransfer-scale", daemon=True)
        self._started = threading.Event()
        self._port = 0
        self.connections: set[asyncio.Transport] = set()
        """The open ones; used in the server's thread."""

    def __enter__(self) -> ScaleServer:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=512)
        server = self._loop.run_until_complete(serving)
        self._port = server.sockets[0].getsockname()[1]
        self._started.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            self._loop.run_until_complete(self._close_connections())
            self._loop.close()

    async def _close_connections(self) -> None:
        while self.connections:
            for transport in self.connections:
                transport.abort()
            await asyncio.sleep(0)  # in which the loop closes their sockets

    @property
    def endpoint(self) -> str:
        """Base URL, of the Hub and of the S3 store."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """Location of all files on S3."""
        return f"s3://{_BUCKET}/"

    @property
    def repo_id(self) -> str:
        """The repository with all files."""
        return _REPO

    def s3_options(self) -> S3Options:
        """Return the options by which a client reaches the S3 store."""
        from hftransfer.options import S3Options

        return S3Options(
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            access_key_id="scale",
            secret_access_key="scale",  # noqa: S106 - not checked
        )

    def hub_options(self) -> HubOptions:
        """Return the options by which a client reaches the Hub."""
        from hftransfer.options import HubOptions

        return HubOptions(endpoint=self.endpoint, token=False)

    def environ(self) -> dict[str, str]:
        """Return environment variables that make a child process use this server only."""
        return {
            "AWS_ACCESS_KEY_ID": "scale",
            "AWS_SECRET_ACCESS_KEY": "scale",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def path(self, number: int) -> str:
        """Return the path of a file by its number."""
        return f"data/{number // 1000:04d}/{number:07d}.bin"

    def content(self, path: str) -> bytes:
        """Return the content of a file of at most 1 MiB."""
        return path.encode().ljust(self.size, b"\0")[: self.size]

    def has(self, path: str) -> bool:
        """Return True if `path` is one of the files."""
        digits = path[-11:-4]
        return (
            digits.isdecimal()
            and self.first <= int(digits) < self.first + self.files
            and self.path(int(digits)) == path
        )

    def after(self, path: str) -> int:
        """Return the number of the first file that sorts behind `path`."""
        numbers = range(self.first, self.first + self.files)
        return self.first + bisect_right(numbers, path, key=self.path)

    def record(self, kind: str) -> None:
        """Count a request; called in the server's thread."""
        self.counts[kind] += 1
        if len(self.kinds) < _MAX_KINDS:
            self.kinds.append(kind)


class _Connection(asyncio.Protocol):
    """One connection: requests are answered in order."""

    def __init__(self, server: ScaleServer) -> None:
        self._server = server
        self._received = bytearray()
        self._body_left = 0
        self._body = hashlib.md5(usedforsecurity=False)
        self._request: tuple[str, str, Mapping[str, str]] | None = None
        self._transport: asyncio.Transport | None = None
        self._blocks: Iterator[bytes] = iter(())
        """What is left of the body of a response."""
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        assert self._transport is not None
        self._server.connections.discard(self._transport)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._send_blocks()

    def _send_blocks(self) -> None:
        assert self._transport is not None
        while not self._is_paused:
            block = next(self._blocks, None)
            if block is None:
                return
            self._transport.write(block)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._received or self._request is not None:
            if self._request is None and not self._read_head():
                return
            taken = self._received[: self._body_left]
            self._body.update(taken)
            self._body_left -= len(taken)
            del self._received[: len(taken)]
            if self._body_left:
                return
            assert self._request is not None
            (method, target, headers), self._request = self._request, None
            self._respond(method, target, headers)

    def _read_head(self) -> bool:
        head, separator, _ = bytes(self._received).partition(b"\r\n\r\n")
        if not separator:
            return False
        del self._received[: len(head) + len(separator)]
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        method, target, _ = first.split(" ")
        self._request = method, target, headers
        self._body_left = int(headers.get("content-length", 0))
        self._body = hashlib.md5(usedforsecurity=False)
        return True

    def _respond(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(target)
        path, query = unquote(parts.path), dict(parse_qsl(parts.query, keep_blank_values=True))
        if path.startswith("/api/models/"):
            self._respond_as_hub(path, query)
        elif "/resolve/" in path:
            self._send_file(method, path.partition(f"/resolve/{_COMMIT}/")[2], headers)
        elif "list-type" in query:
            self._send_listing(path.strip("/"), query)
        elif method == "PUT":
            self._send_upload_result(headers)
        else:
            self._send_file(method, path.removeprefix(f"/{_BUCKET}/"), headers)

    def _respond_as_hub(self, path: str, query: Mapping[str, str]) -> None:
        server = self._server
        if "/revision/" in path:
            server.record("revision")
            self._send_json({"sha": _COMMIT})
            return
        server.record("tree")
        start = int(query.get("cursor", server.first))
        stop = min(start + _PAGE_SIZE, server.first + server.files)
        rows = []
        for number in range(start, stop):
            name = server.path(number)
            blob = hashlib.sha1(b"blob %d\0" % server.size, usedforsecurity=False)
            blob.update(server.content(name))
            rows.append(
                {"type": "file", "path": name, "size": server.size, "oid": blob.hexdigest()}
            )
        link = {}
        if stop < server.first + server.files:
            following = f"{server.endpoint}{path}?recursive=true&expand=false&cursor={stop}"
            link = {"Link": f'<{following}>; rel="next"'}
        self._send_json(rows, link)

    def _send_json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        described = {"Content-Type": "application/json", **(headers or {})}
        self._send(200, described, json.dumps(value).encode())

    def _send_listing(self, bucket: str, query: Mapping[str, str]) -> None:
        server = self._server
        server.record("list")
        prefix = query.get("prefix", "")
        start = server.first
        for given in ("start-after", "continuation-token"):
            if query.get(given):
                start = max(start, server.after(query[given]))
        if prefix:
            start = max(start, server.after(prefix[:-1] + chr(ord(prefix[-1]) - 1) + "\uffff"))
        rows = []
        end = server.first + server.files if bucket == _BUCKET else start
        for number in range(start, min(end, start + _PAGE_SIZE)):
            name = server.path(number)
            if not name.startswith(prefix):
                end = number
                break
            rows.append(
                f"<Contents><Key>{quote(name)}</Key><ETag>&quot;{self._etag(name)}&quot;</ETag>"
                f"<Size>{server.size}</Size></Contents>"
            )
        is_truncated = start + _PAGE_SIZE < end
        token = (
            f"<NextContinuationToken>{server.path(start + _PAGE_SIZE - 1)}</NextContinuationToken>"
        )
        document = (
            "<ListBucketResult><EncodingType>url</EncodingType>"
            f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>"
            f"{token if is_truncated else ''}{''.join(rows)}</ListBucketResult>"
        )
        self._send(200, {"Content-Type": "application/xml"}, document.encode())

    def _etag(self, path: str) -> str:
        if self._server.size > len(_BLOCK):
            return f"{'0' * 32}-{-(-self._server.size // (8 << 20))}"
        return hashlib.md5(self._server.content(path), usedforsecurity=False).hexdigest()

    def _send_upload_result(self, headers: Mapping[str, str]) -> None:
        if "x-amz-copy-source" in headers:
            self._server.record("copy")
            document = f"<CopyObjectResult><ETag>&quot;{'1' * 32}&quot;</ETag></CopyObjectResult>"
            self._send(200, {"Content-Type": "application/xml"}, document.encode())
        else:
            self._server.record("put")
            self._send(200, {"ETag": f'"{self._body.hexdigest()}"'}, b"")

    def _send_file(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        server = self._server
        server.record(method.lower())
        if not server.has(path):
            self._send(
                404, {}, b"" if method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>"
            )
            return
        start, stop = _range(headers.get("range", ""), server.size)
        described = {"ETag": f'"{self._etag(path)}"', "Accept-Ranges": "bytes"}
        if (start, stop) != (0, server.size):
            described["Content-Range"] = f"bytes {start}-{stop - 1}/{server.size}"
        status = 206 if "Content-Range" in described else 200
        self._send_head(status, described, stop - start)
        if method == "HEAD":
            return
        if server.size <= len(_BLOCK):
            self._blocks = iter([server.content(path)[start:stop]])
        else:
            self._blocks = _zeros(stop - start)
        self._send_blocks()

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._send_head(status, headers, len(body), body)

    def _send_head(
        self, status: int, headers: Mapping[str, str], length: int, body: bytes = b""
    ) -> None:
        assert self._transport is not None
        lines: Sequence[str] = [f"{name}: {value}\r\n" for name, value in headers.items()]
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: {length}\r\n"
        self._transport.write(f"{head}{''.join(lines)}\r\n".encode() + body)


def _range(header: str, size: int) -> tuple[int, int]:
    """Return start and stop of a Range header, of the whole file if there is none."""
    unit, _, text = header.partition("=")
    if unit != "bytes":
        return 0, size
    first, _, last = text.partition("-")
    return int(first), min(size, int(last) + 1 if last else size)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield _BLOCK[:count]
        count -= len(_BLOCK)
