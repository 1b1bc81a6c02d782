"""S3 and compatible stores: a `Source` that reads objects and a `Sink` that creates them.

Reads are ranged GETs with ``If-Match``; an object that fits one chunk is read by one GET without
a range. A file of one chunk is written by one PUT. A larger one is written as a multipart upload
whose parts are the chunks, and the object appears when the upload is completed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

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
    single_error,
)
from hftransfer.locations import S3Location, safe_path
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.errors import error_code, lacks_permission
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
from hftransfer.stores.s3.listing import Listing, list_location, list_page
from hftransfer.stores.s3.multipart import MultipartUpload, end_orphans
from hftransfer.stores.s3.put import SingleUpload
from hftransfer.stores.s3.target import PART_LIMITS, UploadTarget

__all__ = ("S3Sink", "S3Source")

_MAX_KEY_BYTES = 1024
_PAGE_SIZE = 1000
# HEAD requests in flight, if the options do not give the number of connections.
_DEFAULT_HEADS = 16


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
        listing = await list_location(self.client, self._location)
        self._root, self.single = listing.root, listing.single
        return sorted(self._entries(listing).values(), key=lambda entry: entry.path)

    def _entries(self, listing: Listing) -> dict[str, Entry]:
        entries = {}
        for listed in listing.objects:
            path = listed.key.removeprefix(listing.root)
            try:
                safe_path(path)
            except LocationError as error:
                what = self.client.describe(self._location.bucket, listed.key)
                raise LocationError(f"{what}: the key cannot be a file's path: {error}") from error
            entries[path] = Entry(
                path=path,
                size=listed.size,
                etag=listed.etag or None,
                part_size=stored_part_size(listed.size, listed.etag),
            )
        return entries

    async def with_digests(
        self, entries: Sequence[Entry], *, all_sizes: bool = False
    ) -> Sequence[Entry]:
        """Return `entries` with the checksums of whole objects, by one HEAD each.

        By default only objects of more than one chunk are asked for: a response to a range does
        not carry the checksum, while a smaller object brings it along when it is read.

        Args:
            entries: as listed by this source.
            all_sizes: ask for smaller objects, too, and use the MD5 if there is no checksum.

        Raises:
            TransientError: if the store fails more often than the retry policy allows.
        """
        smallest = 0 if all_sizes else self.client.options.chunk_size + 1
        large = [entry for entry in entries if entry.size >= smallest]
        add_digest = partial(self._with_digest, use_md5=all_sizes)
        updated = {entry.path: entry for entry in await self._for_each(large, add_digest)}
        return [updated.get(entry.path, entry) for entry in entries]

    async def _with_digest(self, entry: Entry, *, use_md5: bool) -> Entry:
        try:
            headers = await self._head(entry)
        except TransientError:
            raise
        except TransferError:
            return entry  # HEAD may be forbidden; if reading fails, too, its error is clearer
        digest = _whole_digest(entry, headers)
        if digest is None and use_md5:
            digest = md5_digest(entry.etag, headers)
        return replace(entry, digest=digest)

    async def with_properties(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return `entries` with the type and metadata of their objects, by one HEAD each.

        Raises:
            TransferError: if a HEAD fails.
        """
        return await self._for_each(entries, self._with_object_properties)

    async def _with_object_properties(self, entry: Entry) -> Entry:
        stored = object_properties(await self._head(entry))
        return replace(entry, properties={**entry.properties, **stored})

    async def _head(self, entry: Entry) -> Mapping[str, str]:
        headers = {**self._read_headers(entry), **CHECKSUM_MODE}
        response = await self.client.call("HEAD", *self.object_of(entry), headers=headers)
        return response.headers

    async def _for_each(
        self, entries: Sequence[Entry], operation: Callable[[Entry], Awaitable[Entry]]
    ) -> Sequence[Entry]:
        """Run `operation` on all entries concurrently; return the results in order."""
        results = list(entries)
        limiter = anyio.CapacityLimiter(self.client.options.connections or _DEFAULT_HEADS)

        async def run(index: int) -> None:
            async with limiter:
                results[index] = await operation(entries[index])

        with single_error():
            async with anyio.create_task_group() as tasks:
                for index in range(len(entries)):
                    tasks.start_soon(run, index)
        return results

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
        # Keys and sizes in bytes of objects at the destination, as `prepare` listed them.
        self._existing: Mapping[str, int] = {}

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
        if self.single and len(entries) != 1:
            raise DestinationError(
                f"{self.location} is the key of one object, but there are {len(entries)} files"
            )
        for entry in entries:
            length = len(self.object_of(entry)[1].encode())
            if length > _MAX_KEY_BYTES:
                raise DestinationError(
                    f"{self.location}: the key of {entry.path!r} has {length} bytes, "
                    f"more than the {_MAX_KEY_BYTES} that S3 allows; shorten the path"
                )
        # A listing and not HeadBucket, whose error response has no body that gives a reason.
        try:
            self._existing = await self._list_existing(1 + len(entries) // _PAGE_SIZE)
        except AccessError as error:
            # Credentials that may write but not list are good practice.
            if not lacks_permission(error):
                raise

    async def _list_existing(self, pages: int) -> Mapping[str, int]:
        """Return keys and sizes of at most `pages` pages of objects at the destination."""
        prefix = self._location.key if self.single else self._prefix
        existing: dict[str, int] = {}
        token = None
        for _ in range(pages):
            page = await list_page(self._client, self._location.bucket, prefix, token)
            existing |= {listed.key: listed.size for listed in page.objects}
            if (token := page.next_token) is None:
                break
        return existing

    async def _is_stored(self, bucket_key: tuple[str, str], entry: Entry) -> bool:
        """Return True if the object has this very content, by the identity in its metadata."""
        s3 = self._client.s3
        tag = identity_tag(entry)
        # The object may be stored in another way than these options demand.
        has_storage_options = s3.server_side_encryption or s3.storage_class or s3.customer_key
        if not tag or has_storage_options or self._existing.get(bucket_key[1]) != entry.size:
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

    async def finish(self, manifest: Manifest) -> None:
        pass  # no object refers to the others
