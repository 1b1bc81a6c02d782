"""Requests of S3 as they are sent: signed, redirected, and fixed after an error response.

`RequestSigner` holds what it learns about the store: the region of each bucket, the difference of
the clocks, and the headers that are refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlsplit

from hftransfer._http.status import parse_http_date
from hftransfer.errors import Response, redact
from hftransfer.stores.s3.account import Account, BucketEndpoint
from hftransfer.stores.s3.redirects import foreign_headers, redirect_of
from hftransfer.stores.s3.signing import Credentials, Signer, canonical_query, encoded_path
from hftransfer.stores.s3.xml import element

__all__ = ("Request", "RequestSigner", "SignedRequest")

_EXPIRED_CODES = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_CLOCK_CODES = ("RequestTimeTooSkewed", "RequestInTheFuture")
# Some gateways refuse requests without it.
_USER_AGENT = {"User-Agent": "hftransfer"}
# Headers that only add a check. A store that refuses one of them, as S3Proxy does, gets none.
_OPTIONAL_HEADERS = ("x-amz-mp-object-size", "x-amz-checksum-mode", "Content-MD5")
_REFUSAL_CODES = ("NotImplemented", "InvalidArgument", "UnsupportedHeader")


class Request(NamedTuple):
    """One request before it is signed; nothing in it is encoded."""

    method: str
    bucket: str
    key: str
    """Empty for the bucket itself."""
    query: Mapping[str, str]
    headers: Mapping[str, str]

    def __repr__(self) -> str:  # a header may have the key of SSE-C
        return f"<Request {self.method} s3://{self.bucket}/{self.key}>"

    @property
    def subject(self) -> tuple[str, str]:
        """Bucket, and the key or prefix, that an error message names."""
        return self.bucket, self.key or self.query.get("prefix", "")


class SignedRequest(NamedTuple):
    """A request as it is sent, and what it was signed with."""

    url: str
    headers: Mapping[str, str]
    region: str
    credentials: Credentials | None
    """None if the request is anonymous."""

    def __repr__(self) -> str:  # the headers have the signature
        return f"<SignedRequest {redact(self.url)}>"


class RequestSigner:
    """Turns requests into what is sent, for one account.

    Args:
        account: gives endpoints and credentials.
        describe: returns the name of an object or bucket, with which messages start.
    """

    def __init__(self, account: Account, describe: Callable[[str, str], str]) -> None:
        self._account = account
        self._describe = describe
        self._endpoints: dict[str, BucketEndpoint] = {}
        self._signers: dict[tuple[str, str], Signer] = {}  # by region and service
        self._refused_headers: set[str] = set()
        # Seconds by which the store's clock is ahead of this machine's.
        self._clock_offset = 0.0

    async def sign(self, request: Request) -> SignedRequest:
        endpoint = self._endpoints.get(request.bucket)
        if endpoint is None:
            endpoint = self._account.bucket_endpoint(request.bucket)
            self._endpoints[request.bucket] = endpoint
        path = f"{endpoint.prefix}/{encoded_path(request.key)}"
        query = canonical_query(request.query) if request.query else ""
        return await self._sign_for(request, endpoint, path, query)

    async def _sign_for(
        self, request: Request, endpoint: BucketEndpoint, path: str, query: str
    ) -> SignedRequest:
        """Return `request` as it is sent to `path` of an endpoint; both are encoded."""
        url = f"{endpoint.origin}{path}?{query}" if query else f"{endpoint.origin}{path}"
        plain = request.headers
        if self._refused_headers:
            plain = {
                name: value for name, value in plain.items() if name not in self._refused_headers
            }
        if self._account.anonymous:
            return SignedRequest(url, {**plain, **_USER_AGENT}, endpoint.region, None)
        credentials = await self._account.credentials()
        scope = (endpoint.region, endpoint.service)
        signer = self._signers.get(scope)
        if signer is None or signer.credentials is not credentials:
            signer = self._signers[scope] = Signer(credentials, *scope)
        now = time.time() + self._clock_offset
        headers = signer.sign(request.method, endpoint.host, path, query, plain, now=now)
        headers |= _USER_AGENT  # not signed, since proxies may change it
        return SignedRequest(url, headers, endpoint.region, credentials)

    async def recover_from(
        self, response: Response, request: Request, signed: SignedRequest
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
            self._endpoints[request.bucket] = self._account.bucket_endpoint(request.bucket, region)
            return True
        if code in _CLOCK_CODES:
            return self._adopt_clock(response.headers.get("Date", ""))
        if code in _EXPIRED_CODES and signed.credentials is not None:
            return await self._account.replace_credentials(signed.credentials)
        if response.status == 501 or code in _REFUSAL_CODES:
            return self._omit_optional_headers(signed)
        return False

    def _omit_optional_headers(self, signed: SignedRequest) -> bool:
        """Send no optional header any more; return False if `signed` had none.

        Not the headers refused so far decide: requests in flight are refused for the same reason.
        """
        refused = {name for name in _OPTIONAL_HEADERS if name in signed.headers}
        self._refused_headers |= refused
        return bool(refused)

    def _adopt_clock(self, date: str) -> bool:
        """Sign by the clock of a response's Date header from now on; False if it has none."""
        server_time = parse_http_date(date)
        if server_time is None:
            return False
        self._clock_offset = server_time - time.time()
        return True

    async def follow(
        self, request: Request, signed: SignedRequest, response: Response
    ) -> SignedRequest | None:
        """Return the request that a redirect asks for, or None if `response` is none to follow.

        Raises:
            RejectedError: as `redirect_of`.
        """
        if response.status < 300:  # nearly always
            return None
        redirect = redirect_of(response, self._describe(*request.subject))
        if redirect is None:
            return None
        if not redirect.is_same_origin:
            headers = foreign_headers(request.headers)
            return SignedRequest(redirect.url, headers | _USER_AGENT, signed.region, None)
        parts = urlsplit(redirect.url)
        host = parts.netloc.rpartition("@")[2]
        endpoint = replace(
            self._endpoints[request.bucket],
            origin=f"{parts.scheme}://{host}",
            host=host.lower(),
            prefix="",
            region=signed.region,
        )
        query = "&".join(sorted(parts.query.split("&"))) if parts.query else ""
        return await self._sign_for(request, endpoint, parts.path or "/", query)
