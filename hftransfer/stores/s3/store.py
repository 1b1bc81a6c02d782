"""S3 and compatible stores: a `Source` that reads objects and a `Sink` that creates them.

Reads are ranged GETs with ``If-Match``; an object that fits one chunk is read by one GET without
a range. A file of one chunk is written by one PUT. A larger one is written as a multipart upload
whose parts are the chunks, and the object appears when the upload is completed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.content_digest import ContentDigest
from hftransfer._core.digests import Digest, parts_digest
from hftransfer._core.manifest import Manifest
from hftransfer._core.plan import stored_part_size
from hftransfer._core.streams import ByteStream
from hftransfer._io.version_records import VersionRecords
from hftransfer.errors import (
    AccessError,
    DestinationError,
    LocationError,
    NotFoundError,
    SourceChangedError,
    TransferError,
    TransientError,
)
from hftransfer.locations import S3Location
from hftransfer.stores.base import Entry, FileSink, ListingPage, Source
from hftransfer.stores.names import refuse_bad_names
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.conditions import ExclusiveWrites
from hftransfer.stores.s3.errors import error_code
from hftransfer.stores.s3.etags import parts_count
from hftransfer.stores.s3.existing import ExistingObjects
from hftransfer.stores.s3.headers import (
    CHECKSUM_MODE,
    IDENTITY_HEADER,
    are_etags_md5,
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
from hftransfer.stores.s3.stored_files import StoredFiles, demands_storage
from hftransfer.stores.s3.target import PART_LIMITS, UploadTarget
from hftransfer.stores.s3.xml import ListedObject

if TYPE_CHECKING:
    from hftransfer.stores.s3.copy import ServerCopy

__all__ = ("S3Sink", "S3Source")

_MAX_KEY_BYTES = 1024
# Bytes from which an object of which the listing says nothing is asked for before it is sent: to
# send less takes no longer than the request.
_MIN_ASKED = 256 * 1024
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
        self._received: dict[str, Mapping[str, str]] = {}
        """By path, the headers that came with the first bytes of objects that are being read."""

    @property
    def location(self) -> str:
        return str(self._location)

    async def list(self) -> Sequence[Entry]:
        """Return the object, or all objects of the folder sorted by path.

        Raises:
            NotFoundError: if there is no such bucket, object or folder.
            AccessError: if it may not be listed.
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
        return Entry(
            path=listed.key[len(self._root) :],
            size=listed.size,
            etag=listed.etag or None,
            part_size=stored_part_size(listed.size, listed.etag),
        )

    async def with_details(
        self, entry: Entry, *, digest: bool = False, always: bool = False, properties: bool = False
    ) -> Entry:
        """Return `entry` with what S3 does not list, by one or two HEADs.

        Args:
            entry: as listed by this source.
            digest: add the digest of the whole object: its checksum, or else the MD5 that the ETag
                is. For an object of several parts the second HEAD asks for their size.
            always: add the digest also if the client compares no responses.
            properties: add the type and the metadata.

        Raises:
            TransientError: if the store fails more often than the retry policy allows.
            TransferError: if `properties` are asked for and the HEAD fails.
        """
        digest = digest and (always or self.client.compares_responses)
        if not digest and not properties:
            return entry
        try:
            headers = await self._head(entry)
            found = await self._digest_of(entry, headers) if digest else None
        except TransientError:
            raise
        except TransferError:
            if properties:
                raise
            return entry  # HEAD may be forbidden; if reading fails, too, its error is clearer
        if found is not None:
            entry = replace(entry, digest=found)
        if properties:
            stored = object_properties(headers)
            entry = replace(entry, properties={**entry.properties, **stored})
        return entry

    async def _digest_of(self, entry: Entry, headers: Mapping[str, str]) -> Digest | None:
        """Return the digest of a whole object: its checksum, or else the MD5 that its ETag is.

        Args:
            entry: as listed.
            headers: of a response about the object, which name checksum and encryption.

        Raises:
            TransferError: if the size of its parts cannot be requested.
        """
        digest = _whole_digest(entry, headers) or md5_digest(entry.etag, headers)
        count = parts_count(entry.etag or "")
        if digest is not None or count is None or not are_etags_md5(headers):
            return digest
        part_size = entry.size if count == 1 else await self._part_size(entry, count)
        if not part_size:
            return None
        return parts_digest((entry.etag or "").strip('"'), part_size)

    async def _part_size(self, entry: Entry, count: int) -> int | None:
        """Return the bytes of every part but the last, or None if the parts are not like that."""
        response = await self.client.call(
            "HEAD",
            *self.object_of(entry),
            query={"partNumber": "1"},
            headers=self._read_headers(entry),
        )
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isascii() and length.isdigit() else 0
        # A store that ignores the parameter tells the size of the object.
        return size if size and -(-entry.size // size) == count else None

    async def received_digest(self, entry: Entry) -> Digest | None:
        headers = self._received.pop(entry.path, None)
        if headers is None or not self.client.compares_responses:
            return None
        digest = await self._digest_of(entry, headers)
        if digest is None and headers.get("Content-Range"):
            # The response to a range does not carry the checksum.
            digest = _whole_digest(entry, await self._head(entry))
        return digest

    async def _head(self, entry: Entry) -> Mapping[str, str]:
        headers = {**self._read_headers(entry), **CHECKSUM_MODE}
        response = await self.client.call("HEAD", *self.object_of(entry), headers=headers)
        return response.headers

    def object_of(self, entry: Entry) -> tuple[str, str]:
        """Return bucket and key of `entry`."""
        return self._location.bucket, self._root + entry.path

    async def fill(self, entry: Entry, buffer: ByteRangeBuffer) -> None:
        """Fill `buffer` by one GET; keep the headers for `received_digest`.

        Raises:
            SourceChangedError: if the object was replaced or deleted since it was listed.
            TransferError: as `S3Client.fill`.
        """
        headers = dict(self._read_headers(entry))
        is_start = buffer.start == 0 and buffer.filled == 0
        # The engine compares the bytes if the entry has a digest or a manifest. `with_digests` has
        # asked for those of objects of several chunks.
        is_known = entry.digest is not None or entry.manifest is not None
        is_small = entry.size <= self.client.options.chunk_size
        keep = is_start and is_small and not is_known and self.client.compares_responses
        if keep and buffer.limit == entry.size:
            headers |= CHECKSUM_MODE
        try:
            await self.client.fill(
                *self.object_of(entry),
                buffer,
                size=entry.size,
                headers=headers,
                on_headers=partial(self._received.__setitem__, entry.path) if keep else None,
            )
        except NotFoundError as error:
            if error_code(error) == "NoSuchBucket":
                raise
            raise SourceChangedError(
                f"{error.message}; it was deleted during its transfer", response=error.response
            ) from error

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
        records: what this destination holds, from earlier runs. Default: nothing is recorded.

    Raises:
        LocationError: if `single` is set and `location` does not name an object.
    """

    limits = PART_LIMITS

    def __init__(
        self,
        client: S3Client,
        location: S3Location,
        *,
        single: bool = False,
        records: VersionRecords | None = None,
    ) -> None:
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
        self._local_files = StoredFiles(client, records)
        self._exclusive_writes = ExclusiveWrites()
        self._server_copy: ServerCopy | None = None
        """Made for the first copy: other transfers do not load its module."""
        self._copy_limiter = anyio.CapacityLimiter(client.options.connections or _DEFAULT_COPIES)

    @property
    def location(self) -> str:
        return str(self._location)

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Check keys, bucket and credentials. Only the first PUT shows if writing is permitted.

        Raises:
            DestinationError: if there are several files for the key of one object.
            LocationError: if a name cannot be a key.
            NotFoundError: if there is no such bucket.
            AccessError: if the credentials are missing or wrong.
        """
        self._prepared_files += len(entries)
        if self.single and self._prepared_files != 1:
            raise DestinationError(
                f"{self.location} is the key of one object, but there are {self._prepared_files} "
                "files"
            )
        refuse_bad_names(self.location, (entry.path for entry in entries), self.name_check())
        if self._existing is None:
            await self._local_files.load()
            prefix = self._location.key if self.single else self._prefix
            existing = ExistingObjects(self._client, self._location.bucket, prefix)
            # A listing and not HeadBucket, whose error response has no body that gives a reason.
            await existing.start()
            self._existing = existing

    def name_check(self) -> Callable[[str], str | None]:
        return self._name_problem

    def _name_problem(self, path: str) -> str | None:
        key = self._location.key if self.single else self._prefix + path
        try:
            length = len(key.encode())
        except UnicodeEncodeError:
            return "is not UTF-8"
        if length > _MAX_KEY_BYTES:
            return f"makes a key of {length} bytes, more than the {_MAX_KEY_BYTES} that S3 allows"
        return None

    async def _listed(self, bucket_key: tuple[str, str], entry: Entry) -> ListedObject | None:
        """Return the object that is at the destination, or None if there is none."""
        if self._existing is None:
            return None
        return await self._existing.find(bucket_key[1], ask=entry.size >= _MIN_ASKED)

    async def stored_content(self, entry: Entry, chunk_size: int) -> ContentDigest | None:
        bucket_key = self.object_of(entry)
        listed = await self._listed(bucket_key, entry)
        return await self._local_files.content(bucket_key, listed, entry, chunk_size)

    def confirm_stored(self, entry: Entry) -> None:
        self._local_files.confirm(self.object_of(entry), entry)

    async def _is_stored(self, bucket_key: tuple[str, str], entry: Entry) -> bool:
        """Return True if the object has this very content, by a record or by its metadata."""
        listed = await self._listed(bucket_key, entry)
        if listed is None:
            return False
        if self._local_files.is_recorded(bucket_key, listed, entry):
            return True
        tag = identity_tag(entry)
        if not tag or demands_storage(self._client.s3) or listed.size != entry.size:
            return False
        try:
            head = await self._client.call("HEAD", *bucket_key)
        except (AccessError, NotFoundError):
            return False
        return head.headers.get(IDENTITY_HEADER) == tag

    @property
    def non_atomic(self) -> int:
        return self._exclusive_writes.non_atomic

    def object_of(self, entry: Entry) -> tuple[str, str]:
        """Return bucket and key under which `entry` is written."""
        key = self._location.key if self.single else self._prefix + entry.path
        return self._location.bucket, key

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        bucket_key = self.object_of(entry)
        created = partial(self._local_files.add, bucket_key, entry)
        target = UploadTarget(
            self._client,
            *bucket_key,
            entry,
            on_created=created,
            exclusive_writes=self._exclusive_writes,
        )
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

                    self._server_copy = ServerCopy(
                        self._client, exclusive_writes=self._exclusive_writes
                    )
                await self._server_copy.copy(source.object_of(entry), bucket_key, entry)
            # Not before the copy: a store that refuses it gets the parts that are missing.
            if entry.size > self._client.options.chunk_size:
                await end_orphans(UploadTarget(self._client, *bucket_key, entry))
        return not is_stored

    async def finish(self, manifest: Manifest) -> None:
        await self._local_files.save()
        self._existing, self._prepared_files = None, 0
