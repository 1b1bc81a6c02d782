"""S3 and its like: a `Source` of objects and a `Sink` that makes them.

Reads are ranged GETs that carry ``If-Match``; what fits one chunk is one GET without a
range. A file of one chunk is written by one PUT, a larger one as a multipart upload whose
parts are the chunks; it appears under its key when it is complete.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.checksums import header_name
from hftransfer._core.digests import Digest
from hftransfer._core.manifest import Manifest
from hftransfer._core.plan import PartLimits, stored_part_size
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
from hftransfer.stores.s3.errors import lacks_permission, refusal_code
from hftransfer.stores.s3.headers import (
    CHECKSUM_MODE,
    IDENTITY,
    customer_key_headers,
    identity_tag,
    kept_properties,
    known_digest,
    md5_digest,
    pinned,
)
from hftransfer.stores.s3.listing import Found, find, list_page
from hftransfer.stores.s3.multipart import MultipartUpload
from hftransfer.stores.s3.put import SingleUpload, checksum_of

__all__ = ("S3Client", "S3Sink", "S3Source")

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_LIMITS = PartLimits(minimum=5 << 20, maximum=5 << 30, count=10_000)
_KEY_BYTES = 1024
_PAGE = 1000
# HEADs at a time where the number of connections is not given.
_QUESTIONS = 16


class S3Source:
    """One object, or all objects below a prefix.

    A location that is the key of an object is that object; any other is a folder, whose
    objects are those below ``key/`` and never those that merely begin with the same
    letters. Empty objects whose key ends in a slash are other tools' folder markers.

    Args:
        session: open while this is in use.
        location: what to read.
    """

    commit: str | None = None

    def __init__(self, session: S3Client, location: S3Location) -> None:
        self._session = session
        self._location = location
        self._root = ""
        self.single = False
        """True if `list` found the location to be one object."""

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
        found = await find(self._session, self._location)
        self._root, self.single = found.root, found.single
        entries = self._entries(found)
        return [entries[path] for path in sorted(entries)]

    def _entries(self, found: Found) -> dict[str, Entry]:
        entries = {}
        for each in found.objects:
            path = each.key.removeprefix(found.root)
            try:
                safe_path(path)
            except LocationError as error:
                what = self._session.describe(self._location.bucket, each.key)
                raise LocationError(f"{what}: the key cannot be a file's path: {error}") from error
            entries[path] = Entry(
                path=path,
                size=each.size,
                etag=each.etag or None,
                part_size=stored_part_size(each.size, each.etag),
            )
        return entries

    async def with_digests(
        self, entries: Sequence[Entry], *, all_sizes: bool = False
    ) -> Sequence[Entry]:
        """Return `entries` with the checksums of whole objects, which no answer to a range gives.

        One HEAD each for objects of more than one chunk; smaller ones bring their checksum
        along when they are read.

        Args:
            entries: as listed here.
            all_sizes: ask for smaller ones, too, and take an MD5 for want of anything better.

        Raises:
            TransientError: if the store fails more often than the retry policy allows.
        """

        async def ask(entry: Entry) -> Entry:
            try:
                head = await self._head(entry)
                digest = _whole_digest(entry, head)
                if digest is None and all_sizes:
                    digest = md5_digest(entry.etag, head)
                return replace(entry, digest=digest)
            except TransientError:
                raise
            except TransferError:
                return entry  # whoever may read may not ask; reading says what is wrong, if it is

        smallest = 0 if all_sizes else self._session.options.chunk_size + 1
        large = [entry for entry in entries if entry.size >= smallest]
        asked = {entry.path: entry for entry in await self._each(large, ask)}
        return [asked.get(entry.path, entry) for entry in entries]

    async def with_properties(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return `entries` with what their objects keep beside the bytes, one HEAD each.

        Raises:
            TransferError: if an object cannot be asked.
        """

        async def ask(entry: Entry) -> Entry:
            kept = kept_properties(await self._head(entry))
            return replace(entry, properties={**entry.properties, **kept})

        return await self._each(entries, ask)

    async def _head(self, entry: Entry) -> Mapping[str, str]:
        headers = {**self._read_headers(entry), **CHECKSUM_MODE}
        return (await self._session.call("HEAD", *self.object_of(entry), headers=headers)).headers

    async def _each(
        self, entries: Sequence[Entry], operation: Callable[[Entry], Awaitable[Entry]]
    ) -> Sequence[Entry]:
        results = list(entries)
        limiter = anyio.CapacityLimiter(self._session.options.connections or _QUESTIONS)

        async def run(index: int) -> None:
            async with limiter:
                results[index] = await operation(entries[index])

        with single_error():
            async with anyio.create_task_group() as tasks:
                for index in range(len(entries)):
                    tasks.start_soon(run, index)
        return results

    @property
    def session(self) -> S3Client:
        return self._session

    def object_of(self, entry: Entry) -> tuple[str, str]:
        """Return bucket and key of `entry`."""
        return self._location.bucket, self._root + entry.path

    async def fill(self, entry: Entry, span: ByteRangeBuffer) -> None:
        headers = dict(self._read_headers(entry))
        whole = span.start == 0 and span.limit == entry.size and span.filled == 0
        # The chunks of a manifest, and a digest of the whole file, are checked by the engine.
        known = entry.digest is not None or entry.manifest is not None
        verify = whole and self._session.options.verify and not known
        answers: list[Mapping[str, str]] = []
        if verify:
            headers |= CHECKSUM_MODE
        try:
            await self._session.fill(
                *self.object_of(entry),
                span,
                size=entry.size,
                headers=headers,
                on_headers=answers.append if verify else None,
            )
        except NotFoundError as error:
            raise self._vanished(error) from error
        if answers and span.filled >= entry.size:  # else another connection took a share of it
            await self._check(entry, span, answers[-1])

    def _vanished(self, error: NotFoundError) -> TransferError:
        if refusal_code(error) == "NoSuchBucket":
            return error
        return SourceChangedError(
            f"{error.message}; it was deleted during its transfer", response=error.response
        )

    async def _check(self, entry: Entry, span: ByteRangeBuffer, answer: Mapping[str, str]) -> None:
        """Compare a whole object with the checksum that came with it."""
        expected = _whole_digest(entry, answer)
        if expected is None:
            return
        name = expected.algorithm.upper()
        found = await checksum_of(name, span.buffer[: span.filled])
        if found.hex() != expected.value:
            span.reset()
            what = self._session.describe(*self.object_of(entry))
            raise NetworkError(
                f"{what}: it was damaged on its way: its {header_name(name)} is another"
            )

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        async with self._session.stream(
            *self.object_of(entry), size=entry.size, headers=self._read_headers(entry)
        ) as body:
            yield body

    def _read_headers(self, entry: Entry) -> Mapping[str, str]:
        return {**pinned(entry), **customer_key_headers(self._session.s3)}


def _whole_digest(entry: Entry, answer: Mapping[str, str]) -> Digest | None:
    """Return the checksum of a whole object; that of its parts' checksums is no use."""
    kind = answer.get("x-amz-checksum-type")
    of_parts = "-" in (entry.etag or "") if kind is None else kind != "FULL_OBJECT"
    return None if of_parts else known_digest(answer)


class S3Sink:
    """Objects below a prefix, or one object.

    Args:
        session: open while this is in use.
        location: the prefix, with or without its trailing slash.
        single: True if `location.key` is the key of the one file that is written.

    Raises:
        LocationError: if `single` is set and `location` names no object.
    """

    limits = _LIMITS

    def __init__(self, session: S3Client, location: S3Location, *, single: bool = False) -> None:
        key = location.key
        if single and (not key or key.endswith("/")):
            raise LocationError(f"{location} is not the key of an object")
        self._session = session
        self._location = location
        self.single = single
        self._prefix = key if not key or key.endswith("/") else f"{key}/"
        self._there: Mapping[str, int] = {}

    @property
    def location(self) -> str:
        return str(self._location)

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Check keys, bucket and credentials. Whether writing is allowed shows at the first PUT.

        Raises:
            DestinationError: if the keys cannot be used.
            NotFoundError: if there is no such bucket.
            AccessError: if the credentials are missing or wrong.
        """
        if self.single and len(entries) != 1:
            raise DestinationError(f"{len(entries)} files do not fit one object, {self.location}")
        for entry in entries:
            length = len(self.object_of(entry)[1].encode())
            if length > _KEY_BYTES:
                raise DestinationError(
                    f"{self.location}: the key of {entry.path!r} has {length} bytes, "
                    f"more than the {_KEY_BYTES} that S3 allows"
                )
        # Unlike HeadBucket's, a refusal of this says why.
        try:
            self._there = await self._list_there(1 + len(entries) // _PAGE)
        except AccessError as error:
            # Keys that may write and not list are good practice.
            if not lacks_permission(error):
                raise

    async def _list_there(self, pages: int) -> Mapping[str, int]:
        """Return keys and sizes of what is at the destination, as far as `pages` tell."""
        prefix = self._location.key if self.single else self._prefix
        there: dict[str, int] = {}
        token = None
        for _ in range(pages):
            page = await list_page(self._session, self._location.bucket, prefix, token)
            there |= {each.key: each.size for each in page.objects}
            if (token := page.next_token) is None:
                break
        return there

    async def _has(self, target: tuple[str, str], entry: Entry) -> bool:
        """Return True if exactly this content is there, as an earlier transfer has noted."""
        s3 = self._session.s3
        tag = identity_tag(entry)
        told = s3.server_side_encryption or s3.storage_class or s3.customer_key
        if not tag or told or self._there.get(target[1]) != entry.size:
            return False
        try:
            head = await self._session.call("HEAD", *target)
        except (AccessError, NotFoundError):
            return False
        return head.headers.get(IDENTITY) == tag

    def object_of(self, entry: Entry) -> tuple[str, str]:
        """Return bucket and key under which `entry` is written."""
        key = self._location.key if self.single else self._prefix + entry.path
        return self._location.bucket, key

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        target = self.object_of(entry)
        if await self._has(target, entry):
            return None
        if entry.size <= chunk_size:
            return SingleUpload(self._session, *target, entry)
        upload = MultipartUpload(self._session, *target, entry, chunk_size)
        await upload.open()
        return upload

    async def finish(self, manifest: Manifest) -> None:
        pass  # objects refer to nothing else
