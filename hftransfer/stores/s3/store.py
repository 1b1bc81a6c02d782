"""S3 and compatible stores: a `Source` that reads objects and a `Sink` that creates them.

Reads are ranged GETs with ``If-Match``; an object that fits one chunk is read by one GET without
a range. A file of one chunk is written by one PUT. A larger one is written as a multipart upload
whose parts are the chunks, and the object appears when the upload is completed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.checksums import header_name
from hftransfer._core.digests import Digest
from hftransfer._core.manifest import Manifest
from hftransfer._core.plan import stored_part_size
from hftransfer._core.streams import ByteStream
from hftransfer.errors import (
    AccessError,
    DestinationError,
    LocationError,
    NetworkError,
    NotFoundError,
    SourceChangedError,
    TransferError,
    TransientError,
)
from hftransfer.locations import S3Location, safe_path
from hftransfer.stores.base import Entry, FileSink, ListingPage, Source
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.errors import error_code
from hftransfer.stores.s3.existing import UNKNOWN_SIZE, ExistingObjects
from hftransfer.stores.s3.hashing import checksum_of
from hftransfer.stores.s3.headers import (
    CHECKSUM_MODE,
    IDENTITY_HEADER,
    checksum_digest,
    customer_key_headers,
    identity_tag,
    if_match_headers,
    md5_digest,
    object_properties,
)
from hftransfer.stores.s3.listing import pages_of_location
from hftransfer.stores.s3.multipart import MultipartUpload, end_orphans
from hftransfer.stores.s3.put import SingleUpload
from hftransfer.stores.s3.target import PART_LIMITS, UploadTarget
from hftransfer.stores.s3.xml import ListedObject

if TYPE_CHECKING:
    from hftransfer.stores.s3.copy import ServerCopy

__all__ = ("S3Sink", "S3Source")

_MAX_KEY_BYTES = 1024
# Objects that the store copies at the same time, if the options do not give the number of
# connections. Each is one request that waits for the store.
_DEFAULT_COPIES = 32


class S3Source:
    """One object, or all objects below a prefix.

    A location that is the key of an object is that object. Any other location is a folder; its
    files are the objects below ``key/``, never those whose key merely begins with ``key``.
    Empty objects whose key ends in a slash are folder markers of other tools and are skipped.

    Args:
        client: open while this is in use.
        location: what to read.
    """

    commit: str | None = None

    def __init__(self, client: S3Client, location: S3Location) -> None:
        self.client = client
        self._location = location
        self._root = ""
        self.single = False
        """True once `list` has found the location to be one object."""

    @property
    def location(self) -> str:
        return str(self._location)

    async def list(self) -> Sequence[Entry]:
        """Return the object, or all objects of the folder sorted by path.

        Raises:
            NotFoundError: if there is no such bucket, object or folder.
            AccessError: if it may not be listed.
            LocationError: if a key cannot be the path of a file.
        """
        entries = [entry async for page in self.pages() for entry in page.entries]
        return sorted(entries, key=lambda entry: entry.path)

    async def pages(self) -> AsyncIterator[ListingPage]:
        """Yield what `list` returns, in the order of the store: sorted by UTF-8 bytes on AWS."""
        async for page in pages_of_location(self.client, self._location):
            self._root, self.single = page.root, page.single
            entries = [self._entry(listed) for listed in page.objects]
            yield ListingPage(entries, page.is_last)

    def _entry(self, listed: ListedObject) -> Entry:
        path = listed.key[len(self._root) :]
        try:
            safe_path(path)
        except LocationError as error:
            what = self.client.describe(self._location.bucket, listed.key)
            raise LocationError(f"{what}: the key cannot be a file's path: {error}") from error
        return Entry(
            path=path,
            size=listed.size,
            etag=listed.etag or None,
            part_size=stored_part_size(listed.size, listed.etag),
        )

    async def with_details(
        self, entry: Entry, *, digest: bool = False, use_md5: bool = False, properties: bool = False
    ) -> Entry:
        """Return `entry` with what S3 does not list, by one HEAD.

        Args:
            entry: as listed by this source.
            digest: add the checksum of the whole object, if it has one.
            use_md5: use the MD5 if there is no checksum.
            properties: add the type and the metadata.

        Raises:
            TransientError: if the store fails more often than the retry policy allows.
            TransferError: if `properties` are asked for and the HEAD fails.
        """
        try:
            headers = await self._head(entry)
        except TransientError:
            raise
        except TransferError:
            if properties:
                raise
            return entry  # HEAD may be forbidden; if reading fails, too, its error is clearer
        if digest:
            found = _whole_digest(entry, headers)
            if found is None and use_md5:
                found = md5_digest(entry.etag, headers)
            entry = replace(entry, digest=found)
        if properties:
            stored = object_properties(headers)
            entry = replace(entry, properties={**entry.properties, **stored})
        return entry

    async def _head(self, entry: Entry) -> Mapping[str, str]:
        headers = {**self._read_headers(entry), **CHECKSUM_MODE}
        response = await self.client.call("HEAD", *self.object_of(entry), headers=headers)
        return response.headers

    def object_of(self, entry: Entry) -> tuple[str, str]:
        """Return bucket and key of `entry`."""
        return self._location.bucket, self._root + entry.path

    async def fill(self, entry: Entry, buffer: ByteRangeBuffer) -> None:
        """Fill `buffer` by one GET; a whole object is compared with its checksum.

        Nothing is compared here if the entry has a digest or a manifest, with which the engine
        compares the bytes.

        Raises:
            SourceChangedError: if the object was replaced or deleted since it was listed.
            NetworkError: if the bytes do not match the object's checksum.
            TransferError: as `S3Client.fill`.
        """
        headers = dict(self._read_headers(entry))
        whole = buffer.start == 0 and buffer.limit == entry.size and buffer.filled == 0
        engine_compares = entry.digest is not None or entry.manifest is not None
        compare = whole and self.client.options.verify and not engine_compares
        if compare:
            headers |= CHECKSUM_MODE
        received: list[Mapping[str, str]] = []
        try:
            await self.client.fill(
                *self.object_of(entry),
                buffer,
                size=entry.size,
                headers=headers,
                on_headers=received.append if compare else None,
            )
        except NotFoundError as error:
            if error_code(error) == "NoSuchBucket":
                raise
            raise SourceChangedError(
                f"{error.message}; it was deleted during its transfer", response=error.response
            ) from error
        # The engine may have shortened the buffer, because another connection reads its end.
        if received and buffer.filled >= entry.size:
            await self._compare_checksum(entry, buffer, received[-1])

    async def _compare_checksum(
        self, entry: Entry, buffer: ByteRangeBuffer, headers: Mapping[str, str]
    ) -> None:
        """Compare a whole object with the checksum in the response's headers, if there is one."""
        expected = _whole_digest(entry, headers)
        if expected is None:
            return
        algorithm = expected.algorithm.upper()
        found = await checksum_of(algorithm, buffer.memory[: buffer.filled])
        if found.hex() != expected.value:
            buffer.reset()
            raise NetworkError(
                f"{self.client.describe(*self.object_of(entry))}: the object was damaged in "
                f"transit: {header_name(algorithm)} is {expected.value}, "
                f"but the received bytes have {found.hex()}"
            )

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        async with self.client.stream(
            *self.object_of(entry), size=entry.size, headers=self._read_headers(entry)
        ) as body:
            yield body

    def _read_headers(self, entry: Entry) -> Mapping[str, str]:
        return {**if_match_headers(entry), **customer_key_headers(self.client.s3)}


def _whole_digest(entry: Entry, headers: Mapping[str, str]) -> Digest | None:
    """Return the checksum of the whole object, or None if it is a checksum of parts' checksums.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
    """
    kind = headers.get("x-amz-checksum-type")
    is_composite = "-" in (entry.etag or "") if kind is None else kind != "FULL_OBJECT"
    return None if is_composite else checksum_digest(headers)


class S3Sink:
    """Objects below a prefix, or one object.

    Args:
        client: open while this is in use.
        location: the prefix, with or without a trailing slash.
        single: True if `location.key` is the key of the one object to be created.

    Raises:
        LocationError: if `single` is set and `location` does not name an object.
    """

    limits = PART_LIMITS

    def __init__(self, client: S3Client, location: S3Location, *, single: bool = False) -> None:
        key = location.key
        if single and (not key or key.endswith("/")):
            raise LocationError(f"{location} is not the key of an object")
        self._client = client
        self._location = location
        self.single = single
        self._prefix = key if not key or key.endswith("/") else f"{key}/"
        self._existing: ExistingObjects | None = None
        """What is at the destination; None before `prepare`."""
        self._prepared_files = 0
        self._server_copy: ServerCopy | None = None
        """Made for the first copy: other transfers do not load its module."""
        self._copy_limiter = anyio.CapacityLimiter(client.options.connections or _DEFAULT_COPIES)

    @property
    def location(self) -> str:
        return str(self._location)

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Check keys, bucket and credentials. Only the first PUT shows if writing is permitted.

        Raises:
            DestinationError: if a key cannot be used.
            NotFoundError: if there is no such bucket.
            AccessError: if the credentials are missing or wrong.
        """
        self._prepared_files += len(entries)
        if self.single and self._prepared_files != 1:
            raise DestinationError(
                f"{self.location} is the key of one object, but there are {self._prepared_files} "
                "files"
            )
        for entry in entries:
            length = len(self.object_of(entry)[1].encode())
            if length > _MAX_KEY_BYTES:
                raise DestinationError(
                    f"{self.location}: the key of {entry.path!r} has {length} bytes, "
                    f"more than the {_MAX_KEY_BYTES} that S3 allows; shorten the path"
                )
        if self._existing is None:
            prefix = self._location.key if self.single else self._prefix
            existing = ExistingObjects(self._client, self._location.bucket, prefix)
            # A listing and not HeadBucket, whose error response has no body that gives a reason.
            await existing.start()
            self._existing = existing

    async def _is_stored(self, bucket_key: tuple[str, str], entry: Entry) -> bool:
        """Return True if the object has this very content, by the identity in its metadata."""
        s3 = self._client.s3
        tag = identity_tag(entry)
        # The object may be stored in another way than these options demand.
        has_storage_options = s3.server_side_encryption or s3.storage_class or s3.customer_key
        if not tag or has_storage_options or self._existing is None:
            return False
        size = await self._existing.size_of(bucket_key[1])
        if size not in (entry.size, UNKNOWN_SIZE):
            return False
        try:
            head = await self._client.call("HEAD", *bucket_key)
        except (AccessError, NotFoundError):
            return False
        return head.headers.get(IDENTITY_HEADER) == tag

    def object_of(self, entry: Entry) -> tuple[str, str]:
        """Return bucket and key under which `entry` is written."""
        key = self._location.key if self.single else self._prefix + entry.path
        return self._location.bucket, key

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        bucket_key = self.object_of(entry)
        target = UploadTarget(self._client, *bucket_key, entry)
        if await self._is_stored(bucket_key, entry):
            if entry.size > chunk_size:
                await end_orphans(target)
            return None
        if entry.size <= chunk_size:
            return SingleUpload(target)
        return await MultipartUpload.open(target, chunk_size)

    def copies_from(self, source: Source) -> bool:
        return isinstance(source, S3Source)

    async def copy_from(self, source: Source, entry: Entry) -> bool:
        assert isinstance(source, S3Source)  # by `copies_from`
        bucket_key = self.object_of(entry)
        async with self._copy_limiter:
            is_stored = await self._is_stored(bucket_key, entry)
            if not is_stored:
                if self._server_copy is None:
                    from hftransfer.stores.s3.copy import ServerCopy

                    self._server_copy = ServerCopy(self._client)
                await self._server_copy.copy(source.object_of(entry), bucket_key, entry)
            # Not before the copy: a store that refuses it gets the parts that are missing.
            if entry.size > self._client.options.chunk_size:
                await end_orphans(UploadTarget(self._client, *bucket_key, entry))
        return not is_stored

    async def finish(self, manifest: Manifest) -> None:
        self._existing, self._prepared_files = None, 0
