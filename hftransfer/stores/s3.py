"""S3 and its like: a `Source` of objects and a `Sink` that makes them.

Reads are ranged GETs that carry ``If-Match``. A file of one chunk is written by one PUT,
a larger one as a multipart upload whose parts are the chunks; it appears under its key
when it is complete, and leaves nothing behind when it is given up.
"""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from hftransfer._manifest import Manifest
from hftransfer._plan import PartLimits
from hftransfer._spans import Span
from hftransfer.errors import (
    AccessError,
    DestinationError,
    LocationError,
    NotFoundError,
    RejectedError,
    Response,
    TransferError,
)
from hftransfer.locations import S3Location, safe_path
from hftransfer.stores.base import ByteStream, Entry, FileSink
from hftransfer.stores.s3_errors import lacks_permission, response_error
from hftransfer.stores.s3_session import S3Session, SignedUrl
from hftransfer.stores.s3_upload import MultipartUpload, SingleUpload

__all__ = ("S3Session", "S3Sink", "S3Source")

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_LIMITS = PartLimits(minimum=5 << 20, maximum=5 << 30, count=10_000)
_KEY_BYTES = 1024


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

    def __init__(self, session: S3Session, location: S3Location) -> None:
        self._session = session
        self._bucket = location.bucket
        self._location = location
        self._root = ""
        self.single = False
        """True if `list` found the location to be one object."""
        self._urls: dict[str, SignedUrl] = {}

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
        key = self._location.key
        if key and not key.endswith("/"):
            entry = await self._single(key)
            if entry is not None:
                self._root = key.removesuffix(entry.path)
                self.single = True
                return [entry]
            key += "/"
        self._root = key
        entries: dict[str, Entry] = {}
        position: dict[str, str] = {}
        while True:
            page = await self._session.call(
                "list_objects_v2", Bucket=self._bucket, Prefix=key, **position
            )
            for item in page.get("Contents", ()):
                if item["Size"] > 0 or not item["Key"].endswith("/"):
                    path = self._checked_path(item["Key"])
                    entries[path] = Entry(path=path, size=item["Size"], etag=item["ETag"])
            if not page.get("IsTruncated"):
                break
            position = {"ContinuationToken": page["NextContinuationToken"]}
        if not entries:
            what = self._session.describe(self._bucket, self._location.key)
            raise NotFoundError(f"{what}: there is no such object, and nothing below it")
        return [entries[path] for path in sorted(entries)]

    async def _single(self, key: str) -> Entry | None:
        """Return the object that has exactly this key, or None."""
        try:
            head = await self._session.call("head_object", Bucket=self._bucket, Key=key)
        except (AccessError, NotFoundError, RejectedError):
            return None  # answers to HEAD have no body: the listing says what is wrong
        return Entry(
            path=self._checked_path(key, key.rpartition("/")[2]),
            size=head["ContentLength"],
            etag=head["ETag"],
            properties={"content-type": head["ContentType"]} if "ContentType" in head else {},
        )

    def _checked_path(self, key: str, path: str | None = None) -> str:
        try:
            return safe_path(key.removeprefix(self._root) if path is None else path)
        except LocationError as error:
            what = self._session.describe(self._bucket, key)
            raise LocationError(f"{what}: the key cannot be a file's path: {error}") from error

    async def fill(self, entry: Entry, span: Span) -> None:
        what = self._what(entry)
        signed = self._signed(entry)
        url = await signed.get()
        try:
            redirect = await self._session.wire.fill(
                url, span, size=entry.size, headers=_pinned(entry)
            )
        except TransferError as error:
            raise signed.refused(url, error, what) from error
        if redirect is not None:
            raise response_error(redirect, what)

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        what = self._what(entry)
        signed = self._signed(entry)
        url = await signed.get()
        async with AsyncExitStack() as stack:
            # What the body of the caller's `async with` raises is none of our refusals.
            try:
                body = await stack.enter_async_context(
                    self._session.wire.stream(url, size=entry.size, headers=_pinned(entry))
                )
            except TransferError as error:
                raise signed.refused(url, error, what) from error
            if isinstance(body, Response):
                raise response_error(body, what)
            yield body

    def _what(self, entry: Entry) -> str:
        return self._session.describe(self._bucket, self._root + entry.path)

    def _signed(self, entry: Entry) -> SignedUrl:
        signed = self._urls.get(entry.path)
        if signed is None:
            key = self._root + entry.path

            async def sign() -> str:
                return await self._session.presign("get_object", Bucket=self._bucket, Key=key)

            signed = self._urls[entry.path] = SignedUrl(sign, self._session.url_lifetime)
        return signed


def _pinned(entry: Entry) -> Mapping[str, str]:
    return {} if entry.etag is None else {"If-Match": entry.etag}


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

    def __init__(self, session: S3Session, location: S3Location, *, single: bool = False) -> None:
        key = location.key
        if single and (not key or key.endswith("/")):
            raise LocationError(f"{location} is not the key of an object")
        self._session = session
        self._location = location
        self._single = single
        self._prefix = key if not key or key.endswith("/") else f"{key}/"

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
        if self._single and len(entries) != 1:
            raise DestinationError(f"{len(entries)} files do not fit one object, {self.location}")
        for entry in entries:
            length = len(self._key(entry).encode())
            if length > _KEY_BYTES:
                raise DestinationError(
                    f"{self.location}: the key of {entry.path!r} has {length} bytes, "
                    f"more than the {_KEY_BYTES} that S3 allows"
                )
        # Unlike HeadBucket's, a refusal of this says why.
        bucket, prefix = self._location.bucket, self._location.key
        try:
            await self._session.call("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        except AccessError as error:
            # Keys that may write and not list are good practice.
            if not lacks_permission(error):
                raise

    def _key(self, entry: Entry) -> str:
        return self._location.key if self._single else self._prefix + entry.path

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        kind = entry.properties.get("content-type") or _content_type(entry.path)
        upload = SingleUpload if entry.size <= chunk_size else MultipartUpload
        return upload(self._session, self._location.bucket, self._key(entry), kind)

    async def finish(self, manifest: Manifest) -> None:
        pass  # objects refer to nothing else


def _content_type(path: str) -> str:
    kind, encoding = mimetypes.guess_type(path)
    # The type of an archive's content is not the type of its compressed bytes.
    return kind if kind is not None and encoding is None else "application/octet-stream"
