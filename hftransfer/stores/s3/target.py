"""The object that an upload creates, and what every kind of upload needs to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hftransfer._core.plan import Chunk, PartLimits
from hftransfer.errors import AccessError, DestinationError, NotFoundError, UnsupportedError
from hftransfer.options import RetryPolicy
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.headers import customer_key_headers

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
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        key: str,
        entry: Entry,
        *,
        on_created: Callable[[str], None] = lambda etag: None,
    ) -> None:
        self.client = client
        self.bucket_key = (bucket, key)
        self.entry = entry
        self.description = client.describe(bucket, key)
        """Start of error messages."""
        self.precondition: Mapping[str, str] = {} if client.s3.overwrite else {"If-None-Match": "*"}
        """Headers that make the store reject the upload if the object exists."""
        self.on_created = on_created
        """Called with the object's ETag, once it is created and verified."""

    @property
    def retry(self) -> RetryPolicy:
        return self.client.options.retry

    async def head(self) -> Mapping[str, str] | None:
        """Return the object's headers by one HEAD, or None if it is absent or not readable."""
        try:
            response = await self.client.send(
                "HEAD", *self.bucket_key, headers=customer_key_headers(self.client.s3)
            )
        except (AccessError, NotFoundError):
            return None  # credentials that may only write are good practice
        return response.headers

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

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        raise UnsupportedError(
            f"{self._target.description}: chunk {chunk.index} cannot be read back from S3"
        )
