"""The client of one S3 account: every request, signed and sent over `HttpClient`.

`Account` finds the endpoint and the credentials, `Signer` signs, and this module sends. No SDK
builds the requests: a HeadObject costs aiobotocore about 0.4 ms of CPU time before a byte is
sent, while `Signer` needs about 5 µs; and an SDK would bring its own connections and retries.

A failed request is handled on three levels, which this package keeps apart:

- *Recover*: the response says what is wrong with the request (another region, a wrong clock,
  expired credentials). `S3Client` fixes the cause and sends the request once more, without
  waiting. Checksum negotiation does the same for a checksum that the store rejects: once per
  candidate, of which there are at most three.
- *Retry*: a `TransientError` may not occur the next time. `hftransfer._io.retry.retrying` sends
  again after a backoff. Each request has one such level: the engine retries `S3Source.fill`,
  `S3Source.stream` and `FileSink.write`; `S3Client.call` and this package's own uses of `retrying`
  cover the rest. An operation that is retried never retries another inside.
- *Restart*: an upload has vanished or holds other bytes than ours (`IntegrityError`). The engine
  aborts it and transfers the file again, with a new upload, a fixed number of times.

They nest as restart > retry > recover. Below them `HttpClient` replaces, once, an idle connection
that the server has closed. Between retry and recover a late part is sent twice (`hedging`), which
shortens an attempt. What bounds the total is `RetryPolicy`: no attempt of an operation starts
later than `deadline` seconds after its first failure, or after `attempts` attempts; progress of a
download begins a new count. No other level waits between its attempts. A retry that gives up fails
the transfer and is not restarted, so a store that stays down is reported after one deadline and
the timeouts of one attempt.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import NamedTuple

import anyio
import anyio.to_thread

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.checksums import COMBINABLE, upload_checksums
from hftransfer._core.streams import ByteStream
from hftransfer._http.client import HttpClient
from hftransfer._http.status import parse_http_date
from hftransfer._io.buffers import BufferPool
from hftransfer._io.file_range import Body
from hftransfer._io.limiter import ResizableLimiter
from hftransfer._io.rate_limit import RateLimiter
from hftransfer._io.retry import retrying
from hftransfer.errors import Response, TransferError, redact
from hftransfer.options import S3Options, TransferOptions
from hftransfer.stores.s3.account import Account, BucketEndpoint
from hftransfer.stores.s3.checksum_negotiation import ChecksumNegotiation
from hftransfer.stores.s3.errors import response_error
from hftransfer.stores.s3.hedging import HedgeTimer
from hftransfer.stores.s3.signing import Credentials, Signer, canonical_query, encoded_path
from hftransfer.stores.s3.xml import element

__all__ = ("S3Client",)

# An upload waits longer for the store than a download does, so more of them run at once.
_UPLOADS_PER_CONNECTION = 2
_DEFAULT_UPLOADS = 32
_EXPIRED_CODES = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_CLOCK_CODES = ("RequestTimeTooSkewed", "RequestInTheFuture")


class _Request(NamedTuple):
    """One request before it is signed; nothing in it is encoded."""

    method: str
    bucket: str
    key: str
    """Empty for the bucket itself."""
    query: Mapping[str, str]
    headers: Mapping[str, str]

    def __repr__(self) -> str:  # a header may have the key of SSE-C
        return f"<_Request {self.method} s3://{self.bucket}/{self.key}>"

    @property
    def subject(self) -> tuple[str, str]:
        """Bucket, and the key or prefix, that an error message names."""
        return self.bucket, self.key or self.query.get("prefix", "")


class _SignedRequest(NamedTuple):
    """A request as it is sent, and what it was signed with."""

    url: str
    headers: Mapping[str, str]
    region: str
    credentials: Credentials | None
    """None if the request is anonymous."""

    def __repr__(self) -> str:  # the headers have the signature
        return f"<_SignedRequest {redact(self.url)}>"


class _FillFailure(NamedTuple):
    """An error response to `S3Client.fill`."""

    response: Response
    cause: TransferError | None
    """None for a redirect, which `HttpClient` returns and does not raise."""


class S3Client:
    """One account and one `HttpClient`, open inside ``async with``.

    All methods run on one event loop; `HttpClient` spreads large bodies over threads itself.

    Args:
        s3: endpoint, credentials and how objects are stored.
        options: connections (per direction), timeouts and the retry policy.
        rate_limiter: the bandwidth limit that all stores of a client share; None for no limit.
        buffers: the data memory that all stores of a client share. Default: memory of its own.
    """

    def __init__(
        self,
        s3: S3Options,
        options: TransferOptions,
        *,
        rate_limiter: RateLimiter | None = None,
        buffers: BufferPool | None = None,
    ) -> None:
        self.s3 = s3
        self.options = options
        self.put_checksums = ChecksumNegotiation(upload_checksums())
        """Negotiates the checksum of an object that one PUT uploads."""
        self.part_checksums = ChecksumNegotiation(
            [name for name in upload_checksums() if name in COMBINABLE]
        )
        """Negotiates the checksum of parts, which must combine to that of the whole object."""
        connections = options.connections
        uploads = _DEFAULT_UPLOADS if connections is None else _UPLOADS_PER_CONNECTION * connections
        self.hedge_timer = HedgeTimer(uploads)
        self.upload_limiter = ResizableLimiter(uploads)
        """Limits the request bodies and part copies in flight. It is acquired last, just before a
        request, when the caller already holds the chunk's buffer."""
        self._rate_limiter = rate_limiter
        self.buffers = buffers or BufferPool(options.resolved_memory_budget)
        self._stack = AsyncExitStack()
        self._account: Account | None = None
        self._http: HttpClient | None = None
        self._endpoints: dict[str, BucketEndpoint] = {}
        self._signers: dict[tuple[str, str], Signer] = {}  # by region and service
        # Seconds by which the store's clock is ahead of this machine's.
        self._clock_offset = 0.0

    async def __aenter__(self) -> S3Client:
        """Resolve the account; no request is sent.

        Raises:
            OptionsError: if the profile, region or endpoint cannot be used.
        """
        self._account = await anyio.to_thread.run_sync(Account, self.s3)
        self._http = HttpClient(
            self.options.timeouts,
            verify=self._account.verify,
            verify_setting=self._account.verify_setting,
            rate_limiter=self._rate_limiter,
            loops=self.options.loops,
        )
        self._stack.push_async_callback(self._http.aclose)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def account(self) -> Account:
        assert self._account is not None, "S3Client is not open"
        return self._account

    @property
    def http(self) -> HttpClient:
        assert self._http is not None, "S3Client is not open"
        return self._http

    def describe(self, bucket: str, key: str = "") -> str:
        """Return the name of an object or bucket and its endpoint, with which messages start."""
        endpoint = self.account.endpoint_url
        if endpoint is None:
            return f"s3://{bucket}/{key} in {self.account.region}"
        return f"s3://{bucket}/{key} at {redact(endpoint)}"

    async def send(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Response:
        """Send a request, with recovery and without retries, and return the response.

        Args:
            method: HTTP method.
            bucket: name of the bucket.
            key: of an object, not encoded; empty for the bucket itself.
            query: parameters, not encoded.
            headers: further headers, which are signed.
            body: in memory or in a file; sent in place and not hashed.

        Raises:
            TransferError: for any status but 2xx, see `hftransfer.stores.s3.errors`.
        """
        request = _Request(method, bucket, key, query or {}, headers or {})
        signed, response = await self._send_once(request, body)
        if not _is_success(response) and await self._recover_from(response, request, signed):
            _, response = await self._send_once(request, body)
        if not _is_success(response):
            raise response_error(response, self.describe(*request.subject))
        return response

    async def _send_once(
        self, request: _Request, body: Body | None
    ) -> tuple[_SignedRequest, Response]:
        signed = await self._sign(request)
        response = await self.http.request(
            request.method, signed.url, headers=signed.headers, body=body
        )
        return signed, response

    async def call(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request without a body as `send` does, with recovery and retries.

        Do not call this from an operation that is retried itself.

        Raises:
            TransferError: as `send`; a transient one when the retry policy gives up.
        """
        send = partial(self.send, method, bucket, key, query=query, headers=headers)
        return await retrying(send, self.options.retry)

    async def fill(
        self,
        bucket: str,
        key: str,
        buffer: ByteRangeBuffer,
        *,
        size: int,
        headers: Mapping[str, str],
        on_headers: Callable[[Mapping[str, str]], object] | None = None,
    ) -> None:
        """Fill the missing bytes of `buffer` with one GET, with recovery and without retries.

        A buffer that covers the whole object is read without a Range header.

        Args:
            bucket: name of the bucket.
            key: of the object, not encoded.
            buffer: the bytes that are needed; keeps what has arrived if this fails.
            size: of the object in bytes.
            headers: further headers, which are signed.
            on_headers: called with the response's headers before its body arrives, in the
                thread that receives it.

        Raises:
            TransferError: as `HttpClient.fill`; an error response as `send`.
        """
        whole = buffer.filled == 0 and buffer.start == 0 and buffer.limit == size
        request = _Request("GET", bucket, key, {}, headers)
        fill = partial(self._fill_once, request, buffer, size, not whole, on_headers)
        signed, failure = await fill()
        if failure is not None and await self._recover_from(failure.response, request, signed):
            _, failure = await fill()
        if failure is not None:
            raise response_error(failure.response, self.describe(bucket, key)) from failure.cause

    async def _fill_once(
        self,
        request: _Request,
        buffer: ByteRangeBuffer,
        size: int,
        ranged: bool,
        on_headers: Callable[[Mapping[str, str]], object] | None,
    ) -> tuple[_SignedRequest, _FillFailure | None]:
        signed = await self._sign(request)
        try:
            redirect = await self.http.fill(
                signed.url,
                buffer,
                size=size,
                headers=signed.headers,
                ranged=ranged,
                on_headers=on_headers,
            )
        except TransferError as error:
            if error.response is None:
                raise
            return signed, _FillFailure(error.response, error)
        return signed, None if redirect is None else _FillFailure(redirect, None)

    @asynccontextmanager
    async def stream(
        self, bucket: str, key: str, *, size: int, headers: Mapping[str, str]
    ) -> AsyncIterator[ByteStream]:
        """Open an object of `size` bytes as one body, without recovery and retries.

        Raises:
            TransferError: as `fill`.
        """
        description = self.describe(bucket, key)
        signed = await self._sign(_Request("GET", bucket, key, {}, headers))
        async with AsyncExitStack() as stack:
            # Only the opening is inside `try`: errors of the caller's block pass unchanged.
            try:
                body = await stack.enter_async_context(
                    self.http.stream(signed.url, size=size, headers=signed.headers)
                )
            except TransferError as error:
                if error.response is None:
                    raise
                raise response_error(error.response, description) from error
            if isinstance(body, Response):
                raise response_error(body, description)
            yield body

    async def _sign(self, request: _Request) -> _SignedRequest:
        endpoint = self._endpoints.get(request.bucket)
        if endpoint is None:
            endpoint = self.account.bucket_endpoint(request.bucket)
            self._endpoints[request.bucket] = endpoint
        path = f"{endpoint.prefix}/{encoded_path(request.key)}"
        query = canonical_query(request.query) if request.query else ""
        url = f"{endpoint.origin}{path}?{query}" if query else f"{endpoint.origin}{path}"
        if self.account.anonymous:
            return _SignedRequest(url, request.headers, endpoint.region, None)
        credentials = await self.account.credentials()
        scope = (endpoint.region, endpoint.service)
        signer = self._signers.get(scope)
        if signer is None or signer.credentials is not credentials:
            signer = self._signers[scope] = Signer(credentials, *scope)
        now = time.time() + self._clock_offset
        headers = signer.sign(request.method, endpoint.host, path, query, request.headers, now=now)
        return _SignedRequest(url, headers, endpoint.region, credentials)

    async def _recover_from(
        self, response: Response, request: _Request, signed: _SignedRequest
    ) -> bool:
        """Fix what an error response complains about; return True if the request may succeed now.

        Args:
            response: to `signed`.
            request: before it was signed.
            signed: `request` as it was sent.
        """
        body = response.body.decode(errors="replace")
        code = element(body, "Code")
        region = response.headers.get("X-Amz-Bucket-Region") or element(body, "Region")
        if region and region != signed.region:
            self._endpoints[request.bucket] = self.account.bucket_endpoint(request.bucket, region)
            return True
        if code in _CLOCK_CODES:
            return self._adopt_clock(response.headers.get("Date", ""))
        if code in _EXPIRED_CODES and signed.credentials is not None:
            return await self.account.replace_credentials(signed.credentials)
        return False

    def _adopt_clock(self, date: str) -> bool:
        """Sign by the clock of a response's Date header from now on; False if it has none."""
        server_time = parse_http_date(date)
        if server_time is None:
            return False
        self._clock_offset = server_time - time.time()
        return True


def _is_success(response: Response) -> bool:
    return 200 <= response.status < 300
