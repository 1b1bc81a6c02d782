"""The connection to one S3 account: control calls by aiobotocore, bodies over `Wire`.

aiobotocore finds credentials, region and endpoint, signs, and makes the small calls.
Bodies travel on URLs that it presigned, so that they are read and written in place and no
payload is hashed for its signature. Only here, and nowhere inside botocore, is a call
tried again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

import anyio
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError

from hftransfer._retry import retrying
from hftransfer._throttle import Throttle
from hftransfer._wire import Wire
from hftransfer.errors import ExpiredError, RejectedError, TransferError
from hftransfer.options import S3Options, TransferOptions
from hftransfer.stores.s3_errors import botocore_error, response_error

__all__ = ("S3Session", "SignedUrl")

_URL_LIFETIME = 3600
# Bodies sent at a time where the number of connections is not given.
_UPLOADS = 16


class S3Session:
    """One aiobotocore client and one `Wire`, open inside ``async with``.

    Args:
        s3: which S3, and as whom.
        options: connections (per direction), timeouts and the retry policy.
        throttle: the client's bandwidth cap; None for none.
        url_lifetime: seconds for which signed URLs are valid. Default one hour.
    """

    def __init__(
        self,
        s3: S3Options,
        options: TransferOptions,
        *,
        throttle: Throttle | None = None,
        url_lifetime: int = _URL_LIFETIME,
    ) -> None:
        self.options = options
        self._throttle = throttle
        self.url_lifetime = url_lifetime
        self._s3 = s3
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._wire: Wire | None = None
        self._uploads: anyio.CapacityLimiter | None = None

    async def __aenter__(self) -> S3Session:
        """Open the session; nothing is sent yet.

        Raises:
            OptionsError: if a profile, region or endpoint cannot be used.
        """
        s3 = self._s3
        try:
            session = AioSession(profile=s3.profile)
            self._client = await self._stack.enter_async_context(
                session.create_client(  # type: ignore[call-overload,unused-ignore]
                    "s3",
                    region_name=s3.region_name,
                    endpoint_url=s3.endpoint_url,
                    aws_access_key_id=s3.access_key_id,
                    aws_secret_access_key=s3.secret_access_key,
                    aws_session_token=s3.session_token,
                    verify=s3.verify,
                    config=self._config(),
                )
            )
            verify = s3.verify
            if verify is None:
                verify = session.get_config_variable("ca_bundle")
        except (BotoCoreError, ValueError) as error:
            raise botocore_error(error, "S3 options") from error
        self._wire = Wire(
            self.options.timeouts,
            verify=verify,
            throttle=self._throttle,
            loops=self.options.loops,
        )
        self._stack.push_async_callback(self._wire.aclose)
        self._uploads = anyio.CapacityLimiter(self.options.connections or _UPLOADS)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def _config(self) -> AioConfig:
        timeouts = self.options.timeouts
        return AioConfig(
            # Presigning falls back to the signature of 2006 where this is not said.
            signature_version="s3v4",
            s3={"addressing_style": self._s3.addressing_style},
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=timeouts.connect,
            read_timeout=timeouts.read,
            max_pool_connections=self.options.connections or _UPLOADS,
            # Many stores refuse or misread the checksum trailers that newer botocore adds.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )

    @property
    def wire(self) -> Wire:
        assert self._wire is not None, "S3Session is not open"
        return self._wire

    @property
    def endpoint(self) -> str:
        """The base URL that requests go to."""
        return str(self._client.meta.endpoint_url)

    def describe(self, bucket: str, key: str = "") -> str:
        """Return the words for an object or bucket that begin an error's message."""
        return f"s3://{bucket}/{key} at {self.endpoint}"

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Run one control call, again if need be.

        Args:
            operation: name of the client's method, such as ``list_objects_v2``.
            **parameters: of that method; ``Bucket`` is one of them.

        Raises:
            TransferError: as the table of `s3_errors` says.
        """
        return await retrying(lambda: self.attempt(operation, **parameters), self.options.retry)

    async def attempt(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Run one control call once."""
        key = parameters.get("Key") or parameters.get("Prefix", "")
        what = self.describe(parameters["Bucket"], key)
        try:
            answer: dict[str, Any] = await getattr(self._client, operation)(**parameters)
        except (BotoCoreError, ClientError) as error:
            raise botocore_error(error, what) from error
        self._check_region(answer, what)
        return answer

    def _check_region(self, answer: Mapping[str, Any], what: str) -> None:
        """Stop before data moves to AWS's wrong region.

        botocore follows the redirect of a control call, but goes on to presign for the
        region that it was given, and every data request would fail.
        """
        region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
        mine = self._client.meta.region_name
        if region and region != mine and ".amazonaws.com" in self.endpoint:
            raise RejectedError(
                f"{what}: the bucket is in {region}, not {mine}; "
                "set that as region_name or AWS_REGION"
            )

    async def presign(self, operation: str, **parameters: Any) -> str:
        """Return a URL on which anyone may do `operation` for `url_lifetime` seconds.

        Raises:
            AccessError: if there are no credentials.
        """
        what = self.describe(parameters["Bucket"], parameters["Key"])
        try:
            url: str = await self._client.generate_presigned_url(
                operation, Params=parameters, ExpiresIn=self.url_lifetime
            )
        except (BotoCoreError, ClientError) as error:
            raise botocore_error(error, what) from error
        return url

    async def put(
        self,
        operation: str,
        body: memoryview,
        *,
        headers: Mapping[str, str] | None = None,
        **parameters: Any,
    ) -> str:
        """Send `body` by ``put_object`` or ``upload_part``, once, and return the ETag.

        The number of bodies on their way at the same time is `TransferOptions.connections`.

        Raises:
            TransferError: as the table of `s3_errors` says.
        """
        what = self.describe(parameters["Bucket"], parameters["Key"])
        assert self._uploads is not None, "S3Session is not open"
        async with self._uploads:
            url = await self.presign(operation, **parameters)
            response = await self.wire.request("PUT", url, headers=headers, body=body)
        if response.status != 200:
            raise response_error(response, what)
        etag = response.headers.get("ETag")
        if not etag:
            raise RejectedError(f"{what}: the answer has no ETag", response=response)
        return etag


class SignedUrl:
    """The URL of one object, signed once and shared by all its chunks.

    Args:
        sign: makes a new one.
        lifetime: seconds for which it is valid; it is renewed in the last tenth of them.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        sign: Callable[[], Awaitable[str]],
        lifetime: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sign = sign
        self._lifetime = lifetime
        self._clock = clock
        self._lock = anyio.Lock()
        self._url = ""
        self._renew_at = 0.0

    async def get(self) -> str:
        """Return a URL that is valid now; those who ask at the same time share one signing."""
        if not self._valid():
            async with self._lock:
                if not self._valid():
                    asked = self._clock()
                    self._url = await self._sign()
                    self._renew_at = asked + 0.9 * self._lifetime
        return self._url

    def _valid(self) -> bool:
        return bool(self._url) and self._clock() < self._renew_at

    def forget(self, url: str) -> None:
        """Have the next `get` sign anew, unless `url` was replaced already."""
        if url == self._url:
            self._url = ""

    def refused(self, url: str, error: TransferError, what: str) -> TransferError:
        """Return what to raise for `error`, met while reading from `url`."""
        if error.response is None:
            return error
        refusal = response_error(error.response, what)
        if isinstance(refusal, ExpiredError):
            self.forget(url)
        return refusal
