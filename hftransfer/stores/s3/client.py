"""The client of one S3 account: every request, signed and sent over `HttpClient`.

`Account` finds the endpoint and the credentials, `RequestSigner` signs, follows redirects and fixes
rejected requests, and this module sends. No SDK builds the requests: a HeadObject costs aiobotocore
about 0.4 ms of CPU time before a byte is sent, while `Signer` needs about 5 µs; and an SDK would
bring its own connections and retries.

A failed request is handled on three levels, which this package keeps apart:

- *Recover*: the response says what is wrong with the request (another region, a wrong clock,
  expired credentials, an optional header that is not supported). `RequestSigner` fixes the cause,
  and the request is sent once more, without waiting. Checksum negotiation does the same for a
  checksum that the store rejects: once per candidate, of which there are at most three.
- *Retry*: a `TransientError` may not occur the next time. `hftransfer._io.retry.retrying` sends
  again after a backoff. Each request has one such level: the engine retries `S3Source.fill`,
  `S3Source.stream` and `FileSink.write`; `S3Client.call` and this package's own uses of `retrying`
  cover the rest. An operation that is retried never retries another inside.
- *Restart*: an upload has vanished or holds other bytes than ours (`IntegrityError`). The engine
  aborts it and transfers the file again, with a new upload, a fixed number of times.

They nest as restart > retry > recover. Below them `HttpClient` replaces, once, an idle connection
that the server has closed. Between retry and recover a late part is sent twice (`hedging`), which
shortens an attempt. What bounds the total is `RetryPolicy`: no attempt of an operation starts
later than `deadline` seconds after its first failure; progress of a download, and the end of an
outage, begin a new count. No other level waits between its attempts. A retry that gives up fails
the transfer and is not restarted, so a store that stays down is reported after one deadline and
the timeouts of one attempt.
"""

from __future__ import annotations

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
from hftransfer._io.buffers import BufferPool
from hftransfer._io.file_range import Body
from hftransfer._io.limiter import ResizableLimiter
from hftransfer._io.origins import Origins
from hftransfer._io.rate_limit import RateLimiter
from hftransfer._io.retry import retrying
from hftransfer.errors import Response, TransferError, redact
from hftransfer.options import S3Options, TransferOptions
from hftransfer.stores.s3.account import Account
from hftransfer.stores.s3.checksum_negotiation import ChecksumNegotiation
from hftransfer.stores.s3.conditions import BucketConditions
from hftransfer.stores.s3.errors import response_error
from hftransfer.stores.s3.hedging import HedgeTimer
from hftransfer.stores.s3.redirects import MAX_REDIRECTS
from hftransfer.stores.s3.requests import Request, RequestSigner, SignedRequest

__all__ = ("S3Client",)

# An upload waits longer for the store than a download does, so more of them run at once.
_UPLOADS_PER_CONNECTION = 2
_DEFAULT_UPLOADS = 32


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
        origins: as of `HttpClient`.
    """

    def __init__(
        self,
        s3: S3Options,
        options: TransferOptions,
        *,
        rate_limiter: RateLimiter | None = None,
        buffers: BufferPool | None = None,
        origins: Origins | None = None,
    ) -> None:
        self.s3 = s3
        self.options = options
        self.put_checksums = ChecksumNegotiation(upload_checksums())
        """Negotiates the checksum of an object that one PUT uploads."""
        self.part_checksums = ChecksumNegotiation(
            [name for name in upload_checksums() if name in COMBINABLE]
        )
        """Negotiates the checksum of parts, which must combine to that of the whole object."""
        self.compares_responses = options.verify
        """True if objects are compared with the checksum or the MD5 that the store states."""
        connections = options.connections
        uploads = _DEFAULT_UPLOADS if connections is None else _UPLOADS_PER_CONNECTION * connections
        self.hedge_timer = HedgeTimer(uploads)
        self.upload_limiter = ResizableLimiter(uploads)
        """Limits the request bodies and part copies in flight. It is acquired last, just before a
        request, when the caller already holds the chunk's buffer."""
        self._rate_limiter = rate_limiter
        self._origins = origins
        self.buffers = buffers or BufferPool(options.resolved_memory_budget)
        self._stack = AsyncExitStack()
        self._account: Account | None = None
        self._http: HttpClient | None = None
        self._signer: RequestSigner | None = None
        self._conditions: dict[str, BucketConditions] = {}

    async def __aenter__(self) -> S3Client:
        """Resolve the account; no request is sent.

        Raises:
            OptionsError: if the profile, region or endpoint cannot be used.
        """
        self._account = await anyio.to_thread.run_sync(Account, self.s3)
        self._signer = RequestSigner(self._account, self.describe)
        if self._account.request_checksums == "when_required":
            self.put_checksums = ChecksumNegotiation(())
            self.part_checksums = ChecksumNegotiation(())
        if self._account.response_checksums == "when_required":
            self.compares_responses = False
        self._http = HttpClient(
            self.options.timeouts,
            verify=self._account.verify,
            verify_setting=self._account.verify_setting,
            rate_limiter=self._rate_limiter,
            loops=self.options.loops,
            origins=self._origins,
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

    @property
    def _requests(self) -> RequestSigner:
        assert self._signer is not None, "S3Client is not open"
        return self._signer

    def conditions(self, bucket: str) -> BucketConditions:
        """Return what is known of the conditional writes of `bucket`."""
        found = self._conditions.get(bucket)
        if found is None:
            found = BucketConditions.make(documented=self.account.endpoint_url is None)
            self._conditions[bucket] = found
        return found

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
        repeatable: bool = False,
    ) -> Response:
        """Send a request, with recovery and without retries, and return the response.

        Args:
            method: HTTP method.
            bucket: name of the bucket.
            key: of an object, not encoded; empty for the bucket itself.
            query: parameters, not encoded.
            headers: further headers, which are signed.
            body: in memory or in a file; sent in place and not hashed.
            repeatable: see `HttpClient.request`.

        Raises:
            TransferError: for any status but 2xx, see `hftransfer.stores.s3.errors`.
        """
        request = Request(method, bucket, key, query or {}, headers or {})
        signed, response = await self._send_once(request, body, repeatable)
        if not _is_success(response) and await self._requests.recover_from(
            response, request, signed
        ):
            _, response = await self._send_once(request, body, repeatable)
        if not _is_success(response):
            raise response_error(response, self.describe(*request.subject))
        return response

    async def _send_once(
        self, request: Request, body: Body | None, repeatable: bool
    ) -> tuple[SignedRequest, Response]:
        signed = await self._requests.sign(request)
        for _ in range(MAX_REDIRECTS):
            response = await self.http.request(
                request.method,
                signed.url,
                headers=signed.headers,
                body=body,
                repeatable=repeatable,
            )
            redirected = await self._requests.follow(request, signed, response)
            if redirected is None:
                break
            signed = redirected
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
        request = Request("GET", bucket, key, {}, headers)
        fill = partial(self._fill_once, request, buffer, size, not whole, on_headers)
        signed, failure = await fill()
        if failure is not None and await self._requests.recover_from(
            failure.response, request, signed
        ):
            _, failure = await fill()
        if failure is not None:
            raise response_error(failure.response, self.describe(bucket, key)) from failure.cause

    async def _fill_once(
        self,
        request: Request,
        buffer: ByteRangeBuffer,
        size: int,
        ranged: bool,
        on_headers: Callable[[Mapping[str, str]], object] | None,
    ) -> tuple[SignedRequest, _FillFailure | None]:
        signed = await self._requests.sign(request)
        for _ in range(MAX_REDIRECTS):
            try:
                response = await self.http.fill(
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
            if response is None:
                return signed, None
            redirect = response
            redirected = await self._requests.follow(request, signed, redirect)
            if redirected is None:
                break
            signed = redirected
        return signed, _FillFailure(redirect, None)

    @asynccontextmanager
    async def stream(
        self, bucket: str, key: str, *, size: int, headers: Mapping[str, str]
    ) -> AsyncIterator[ByteStream]:
        """Open an object of `size` bytes as one body, without recovery and retries.

        Raises:
            TransferError: as `fill`.
        """
        description = self.describe(bucket, key)
        request = Request("GET", bucket, key, {}, headers)
        signed = await self._requests.sign(request)
        for _ in range(MAX_REDIRECTS):
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
                if not isinstance(body, Response):
                    yield body
                    return
                redirect = body
            redirected = await self._requests.follow(request, signed, redirect)
            if redirected is None:
                break
            signed = redirected
        raise response_error(redirect, description)


def _is_success(response: Response) -> bool:
    return 200 <= response.status < 300
