"""The connection to one S3 account: every request, signed and sent over `HttpClient`.

`Account` says where requests go and as whom, `Signer` signs each of them (some tens of
microseconds), and this module sends them, once. A refusal that says what was wrong with
the request (another region, a wrong clock, credentials that ran out) is learnt from, and
the request is sent once more; everything else is an error for whoever tries again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType

import anyio
import anyio.to_thread

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.checksums import COMBINABLE, upload_checksums
from hftransfer._core.streams import ByteStream
from hftransfer._http.client import HttpClient
from hftransfer._http.status import parse_http_date
from hftransfer._io.file_range import Body
from hftransfer._io.limiter import ResizableLimiter
from hftransfer._io.rate_limit import RateLimiter
from hftransfer._io.retry import retrying
from hftransfer.errors import Response, TransferError
from hftransfer.options import S3Options, TransferOptions
from hftransfer.stores.s3.account import Account, BucketEndpoint
from hftransfer.stores.s3.checksum_negotiation import ChecksumChoice
from hftransfer.stores.s3.errors import response_error
from hftransfer.stores.s3.hedging import HedgeTimer
from hftransfer.stores.s3.signing import Credentials, Signer, canonical_query, encoded_path
from hftransfer.stores.s3.xml import element

__all__ = ("S3Client",)

# Uploads spend more of their time waiting for the store than downloads do, so that twice as
# many are under way; this is the number where that of the connections is not given.
_UPLOADS_PER_DOWNLOAD = 2
_UPLOADS = 32
_STALE = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_SKEWED = ("RequestTimeTooSkewed", "RequestInTheFuture")


class S3Client:
    """One account and one `HttpClient`, open inside ``async with``.

    Args:
        s3: which S3, and as whom.
        options: connections (per direction), timeouts and the retry policy.
        throttle: the client's bandwidth cap; None for none.
    """

    def __init__(
        self,
        s3: S3Options,
        options: TransferOptions,
        *,
        throttle: RateLimiter | None = None,
    ) -> None:
        self.s3 = s3
        self.options = options
        self.put_checksums = ChecksumChoice(upload_checksums())
        """Which checksum the endpoint verifies for a whole object, as far as it is known."""
        self.part_checksums = ChecksumChoice(
            [name for name in upload_checksums() if name in COMBINABLE]
        )
        """The same for the parts of one: those that add up to the checksum of the whole."""
        given = options.connections
        uploads = _UPLOADS if given is None else _UPLOADS_PER_DOWNLOAD * given
        self.hedge = HedgeTimer(uploads)
        self.uploads = ResizableLimiter(uploads)
        """Bodies on their way to the store at the same time."""
        self._throttle = throttle
        self._stack = AsyncExitStack()
        self._account: Account | None = None
        self._wire: HttpClient | None = None
        self._places: dict[str, BucketEndpoint] = {}
        self._signers: dict[str, Signer] = {}
        self._ahead = 0.0
        """Seconds by which the store's clock is ahead of ours."""

    async def __aenter__(self) -> S3Client:
        """Open the session; nothing is sent yet.

        Raises:
            OptionsError: if a profile, region or endpoint cannot be used.
        """
        self._account = await anyio.to_thread.run_sync(Account, self.s3)
        self._wire = HttpClient(
            self.options.timeouts,
            verify=self._account.verify,
            rate_limiter=self._throttle,
            loops=self.options.loops,
        )
        self._stack.push_async_callback(self._wire.aclose)
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
    def wire(self) -> HttpClient:
        assert self._wire is not None, "S3Client is not open"
        return self._wire

    def describe(self, bucket: str, key: str = "") -> str:
        """Return the words for an object or bucket that begin an error's message."""
        endpoint = self.account.endpoint_url
        if endpoint is None:
            return f"s3://{bucket}/{key} in {self.account.region}"
        return f"s3://{bucket}/{key} at {endpoint}"

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
        """Send one request and return its answer.

        Args:
            method: HTTP method.
            bucket: name of the bucket.
            key: of an object, as it is written, not encoded; empty for the bucket itself.
            query: parameters, not encoded.
            headers: further headers, which are signed.
            body: sent from where it lies, not hashed.

        Raises:
            TransferError: for anything but a 2xx, as the table of `s3_errors` says.
        """
        for remaining in (1, 0):
            url, signed, identity = await self._signed(
                method, bucket, key, query or {}, headers or {}
            )
            response = await self.wire.request(method, url, headers=signed, body=body)
            if 200 <= response.status < 300:
                break
            what = self.describe(bucket, key or (query or {}).get("prefix", ""))
            if not remaining or not await self._learnt(response, bucket, identity):
                raise response_error(response, what)
        return response

    async def call(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        """As `send`, again if need be."""
        return await retrying(
            lambda: self.send(method, bucket, key, query=query, headers=headers, body=body),
            self.options.retry,
        )

    async def fill(
        self,
        bucket: str,
        key: str,
        span: ByteRangeBuffer,
        *,
        size: int,
        headers: Mapping[str, str],
        on_headers: Callable[[Mapping[str, str]], object] | None = None,
    ) -> None:
        """Fill what is missing of `span` from an object of `size` bytes, by one request.

        What is the whole object is asked for without a Range.

        Raises:
            TransferError: as `HttpClient.fill`, refusals as the table of `s3_errors` says.
        """
        whole = span.filled == 0 and span.start == 0 and span.limit == size
        for remaining in (1, 0):
            url, signed, identity = await self._signed("GET", bucket, key, {}, headers)
            refusal: Response | None
            try:
                refusal = await self.wire.fill(
                    url, span, size=size, headers=signed, ranged=not whole, on_headers=on_headers
                )
                cause = None
            except TransferError as error:
                if (refusal := error.response) is None:
                    raise
                cause = error
            if refusal is None:
                return
            what = self.describe(bucket, key)
            if not remaining or not await self._learnt(refusal, bucket, identity):
                raise response_error(refusal, what) from cause

    @asynccontextmanager
    async def stream(
        self, bucket: str, key: str, *, size: int, headers: Mapping[str, str]
    ) -> AsyncIterator[ByteStream]:
        """Open an object as one body.

        Raises:
            TransferError: as `fill`.
        """
        what = self.describe(bucket, key)
        url, signed, _ = await self._signed("GET", bucket, key, {}, headers)
        async with AsyncExitStack() as stack:
            # What the body of the caller's `async with` raises is none of our refusals.
            try:
                body = await stack.enter_async_context(
                    self.wire.stream(url, size=size, headers=signed)
                )
            except TransferError as error:
                if error.response is None:
                    raise
                raise response_error(error.response, what) from error
            if isinstance(body, Response):
                raise response_error(body, what)
            yield body

    async def _signed(
        self,
        method: str,
        bucket: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> tuple[str, Mapping[str, str], Credentials | None]:
        """Return URL, headers and the identity that signed them."""
        place = self._places.get(bucket)
        if place is None:
            place = self._places[bucket] = self.account.place(bucket)
        path = f"{place.prefix}/{encoded_path(key)}"
        text = canonical_query(query) if query else ""
        url = f"{place.origin}{path}?{text}" if text else f"{place.origin}{path}"
        if self.account.anonymous:
            return url, headers, None
        identity = await self.account.credentials()
        signer = self._signers.get(place.region)
        if signer is None or signer.credentials is not identity:
            signer = self._signers[place.region] = Signer(identity, place.region)
        now = time.time() + self._ahead
        return url, signer.sign(method, place.host, path, text, headers, now=now), identity

    async def _learnt(self, refusal: Response, bucket: str, identity: Credentials | None) -> bool:
        """Return True if `refusal` said how to make the request a better one."""
        body = refusal.body.decode(errors="replace")
        code = element(body, "Code")
        region = refusal.headers.get("X-Amz-Bucket-Region") or element(body, "Region")
        if region and region != self._places[bucket].region:
            self._places[bucket] = self.account.place(bucket, region)
            return True
        if code in _SKEWED:
            return self._set_clock(refusal.headers.get("Date", ""))
        if code in _STALE and identity is not None:
            return await self.account.renewed(identity)
        return False

    def _set_clock(self, date: str) -> bool:
        theirs = parse_http_date(date)
        if theirs is None:
            return False
        self._ahead = theirs - time.time()
        return True
