"""The object that an upload creates, and what every kind of upload needs to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hftransfer._core.plan import Chunk, PartLimits
from hftransfer._io.retry import retrying
from hftransfer.errors import AccessError, DestinationError, NotFoundError, UnsupportedError
from hftransfer.options import RetryPolicy
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.answers import required_etag
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.conditions import BucketConditions, Condition, ExclusiveWrites
from hftransfer.stores.s3.headers import customer_key_headers
from hftransfer.stores.s3.listing import request_page

__all__ = ("PART_LIMITS", "Upload", "UploadTarget")

PART_LIMITS = PartLimits(minimum=5 << 20, maximum=5 << 30, count=10_000)
"""Of a multipart upload: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""


class UploadTarget:
    """One object to be created.

    Args:
        client: open until the upload has ended.
        bucket: name of the bucket.
        key: of the object, not encoded.
        entry: the file that is stored.
        on_created: called with the ETag of the object that the upload has created; empty if the
            store does not tell it. Default: nothing is called.
        exclusive_writes: counts the object if it must not replace another. Default: not counted.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        key: str,
        entry: Entry,
        *,
        on_created: Callable[[str], None] = lambda etag: None,
        exclusive_writes: ExclusiveWrites | None = None,
    ) -> None:
        self.client = client
        self.bucket_key = (bucket, key)
        self.entry = entry
        self.description = client.describe(bucket, key)
        """Start of error messages."""
        self.on_created = on_created
        """Called with the object's ETag, once it is created and verified."""
        self.exclusive = not client.s3.overwrite
        """True if an existing object must not be replaced."""
        self.exclusive_writes = exclusive_writes or ExclusiveWrites()

    @property
    def retry(self) -> RetryPolicy:
        return self.client.options.retry

    @property
    def conditions(self) -> BucketConditions:
        """What is known of the bucket's conditional writes."""
        return self.client.conditions(self.bucket_key[0])

    async def head(self) -> Mapping[str, str] | None:
        """Return the object's headers by one HEAD, or None if it is absent or not readable."""
        try:
            return await self._head()
        except (AccessError, NotFoundError):
            return None  # credentials that may only write are good practice

    async def _head(self) -> Mapping[str, str]:
        response = await self.client.send(
            "HEAD", *self.bucket_key, headers=customer_key_headers(self.client.s3)
        )
        required_etag(response, self.description)
        return response.headers

    async def find_existing(self) -> Mapping[str, str] | None:
        """Return the object's headers, or None if it is absent; without retries.

        A HEAD that is not permitted is replaced by a listing, which tells ETag and size only.

        Raises:
            AccessError: if neither is permitted.
            RejectedError: if no S3 store has answered.
            TransferError: if the request fails.
        """
        try:
            return await self._head()
        except NotFoundError:
            return None
        except AccessError as error:
            try:
                bucket, key = self.bucket_key
                page = await request_page(self.client, bucket, {"prefix": key, "max-keys": "1"})
            except AccessError:
                error.message = (
                    f"{self.description}: whether the object exists cannot be found out, and the "
                    "store has not been shown to honour If-None-Match; permit s3:GetObject or "
                    "s3:ListBucket, or set S3Options.overwrite"
                )
                raise error from None
            for listed in page.objects[:1]:
                if listed.key == key:
                    return {"ETag": listed.etag, "Content-Length": str(listed.size)}
            return None

    async def check_absent(self, condition: Condition) -> None:
        """Look whether the object exists, with retries, before anything is sent.

        Args:
            condition: the one under which the object will be written.

        Raises:
            DestinationError: if it exists.
            AccessError: if that is not permitted, and the store is not known to check it itself.
            TransferError: if the request fails.
        """
        try:
            existing = await retrying(self.find_existing, self.retry)
        except AccessError:
            if not condition.is_proven:
                raise
            return
        if existing is not None:
            raise self.exists_error()

    def exists_error(self) -> DestinationError:
        """Return the error for an object that must not be replaced."""
        return DestinationError(
            f"{self.description}: the object exists already; delete it, or set S3Options.overwrite"
        )


class Upload:
    """The part of `FileSink` that all uploads to S3 share: stored chunks cannot be read back.

    Args:
        target: the object to be created.
    """

    def __init__(self, target: UploadTarget) -> None:
        self._target = target
        self.resumable_chunks: Mapping[int, str] = {}
        self.is_confirmed = False
        """As in `ConfirmingSink`."""

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        raise UnsupportedError(
            f"{self._target.description}: chunk {chunk.index} cannot be read back from S3"
        )
