"""One object on its way into S3: what all uploads share, and a single PUT.

The engine tries chunks again, so requests of `write` are made once; those of `commit`
and `abort` are tried again here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial

import anyio.to_thread

from hftransfer._core.checksums import checksum, encode_checksum, header_name
from hftransfer._core.digests import chunk_digest
from hftransfer._core.manifest import FileManifest
from hftransfer._core.plan import Chunk
from hftransfer._io.file_range import HASH_WINDOW_SIZE, FileRange
from hftransfer._io.retry import retrying
from hftransfer.errors import (
    AccessError,
    DestinationError,
    NotFoundError,
    TransferError,
    UnsupportedError,
)
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.checksum_negotiation import ChecksumChoice
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.headers import customer_key_headers, object_headers
from hftransfer.stores.s3.resume import Part

__all__ = ("SingleUpload", "Upload", "checksum_of", "is_precondition", "md5_of")

# Below this a checksum is made sooner than a thread would have been woken.
_INLINE = 256 * 1024


async def checksum_of(name: str, data: memoryview, digest: str = "") -> bytes:
    """Return `checksum` of what may be large, without holding up the event loop."""
    if len(data) <= _INLINE or (digest and name == "XXHASH128"):
        return checksum(name, data, digest or chunk_digest(data))
    return await anyio.to_thread.run_sync(checksum, name, data, digest or chunk_digest(data))


def md5_of(body: memoryview | FileRange) -> str:
    """Return the MD5 of `body` in hex."""
    if isinstance(body, FileRange):
        return body.digests(["md5"], memoryview(bytearray(HASH_WINDOW_SIZE)))[0]
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


class Upload:
    """What both kinds share.

    Args:
        session: open until the upload is committed or aborted.
        bucket: name of the bucket.
        key: of the object.
        entry: what is to be stored.
    """

    def __init__(self, session: S3Client, bucket: str, key: str, entry: Entry) -> None:
        self.resumable_chunks: Mapping[int, str] = {}
        self._session = session
        self._target = (bucket, key)
        self._entry = entry
        self._what = session.describe(bucket, key)
        self._guard = {} if session.s3.overwrite else {"If-None-Match": "*"}

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        raise UnsupportedError(f"{self._what}: chunk {chunk.index} is not held")

    async def _head(self) -> Mapping[str, str] | None:
        """Return the headers of the object, or None if it cannot be seen."""
        try:
            answer = await self._session.call(
                "HEAD", *self._target, headers=customer_key_headers(self._session.s3)
            )
        except (AccessError, NotFoundError):
            return None  # keys that may write and not read are good practice
        return answer.headers

    def exists(self) -> DestinationError:
        return DestinationError(f"{self._what}: it exists already, and is not to be replaced")


class SingleUpload(Upload):
    """A file of at most one chunk: one PUT of verified bytes, which is atomic."""

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        await self._put(data, digest)

    async def commit(self, manifest: FileManifest) -> None:
        if manifest.size == 0:  # has no chunk that could have been written
            nothing = memoryview(b"")
            await retrying(partial(self._put, nothing, ""), self._session.options.retry)

    async def abort(self, *, discard: bool) -> None:
        pass  # the object is absent, or whole and verified

    async def _put(self, data: memoryview, digest: str) -> None:
        choice = self._session.put_checksums
        if not choice.settled:
            async with choice.probing:  # one object finds out for all
                if not choice.settled:
                    return await self._put_checked(choice, data, digest)
        return await self._put_checked(choice, data, digest)

    async def _put_checked(self, choice: ChecksumChoice, data: memoryview, digest: str) -> None:
        while True:
            name = choice.name
            headers = {**object_headers(self._session.s3, self._entry), **self._guard}
            value = ""
            if name is not None:
                value = encode_checksum(await checksum_of(name, data, digest))
                headers[header_name(name)] = value
            try:
                async with self._session.uploads:
                    answer = await self._session.send(
                        "PUT", *self._target, headers=headers, body=data
                    )
            except TransferError as error:
                if self._guard and is_precondition(error):
                    return await self._check_twin(data)
                if name is None or not choice.may_be_about(error):
                    raise
                choice.reject(name)
                continue
            if name is None or answer.headers.get(header_name(name)) == value:
                choice.confirm(name)
                return None
            choice.reject(name)
            if self._guard or choice.name is None:
                return None

    async def _check_twin(self, data: memoryview) -> None:
        """Raise unless what exists is what was to be written: then a try whose answer was lost did.

        Raises:
            DestinationError: if it is another object.
        """
        head = await self._head()
        found = Part(head.get("ETag", ""), len(data)).md5 if head is not None else None
        if found is None or found != await anyio.to_thread.run_sync(md5_of, data):
            raise self.exists()


def is_precondition(error: TransferError) -> bool:
    """Return True if `error` says that the object is not in the state that was demanded."""
    return error.response is not None and error.response.status == 412
