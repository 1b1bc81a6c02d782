"""Copies within S3: the store moves the bytes, and none of them comes here.

Small objects are one CopyObject, large ones a multipart upload whose parts are copied side
by side. Each request names the version that was listed. What the store cannot copy is left
for whoever can read and write it.
"""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from hftransfer._core.plan import Chunk, PartLimits, fit_chunk_size, plan_chunks
from hftransfer._io.retry import retrying
from hftransfer.errors import (
    AccessError,
    DestinationError,
    NotFoundError,
    Response,
    SourceChangedError,
    UnsupportedError,
    single_error,
)
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.checksum_negotiation import ChecksumChoice
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.errors import refusal_code, response_error
from hftransfer.stores.s3.headers import customer_key_headers, object_headers
from hftransfer.stores.s3.multipart import MultipartUpload
from hftransfer.stores.s3.signing import encoded_path
from hftransfer.stores.s3.xml import element

__all__ = ("ServerCopy",)

# A request that copies more than this is answered too late for comfort.
_SINGLE = 256 << 20
_PART = 64 << 20
_LIMITS = PartLimits(minimum=5 << 20, maximum=5 << 30, count=10_000)
_SOURCE = "x-amz-copy-source"


class ServerCopy:
    """Copies objects of one account.

    Args:
        session: open while this is in use.
        single: bytes up to which one request copies an object. Default 256 MiB.
        part: bytes per request above that. Default 64 MiB.
    """

    def __init__(self, session: S3Client, *, single: int = _SINGLE, part: int = _PART) -> None:
        self._session = session
        self._single = single
        self._part = part

    async def copy(self, origin: tuple[str, str], target: tuple[str, str], entry: Entry) -> None:
        """Copy the object `origin` to `target`, both bucket and key.

        Raises:
            UnsupportedError: if the store cannot do it.
            SourceChangedError: if the object is no longer the listed one.
            DestinationError: if the target exists and is not to be replaced.
            TransferError: if the store refuses or fails.
        """
        headers = self._source_headers(origin, entry)
        if not self._session.s3.overwrite:
            await self._check_absent(target)
        try:
            if entry.size <= self._single:
                await retrying(
                    lambda: self._copy_object(target, entry, headers), self._session.options.retry
                )
            else:
                await self._copy_parts(target, entry, headers)
        except NotFoundError as error:
            if refusal_code(error) != "NoSuchKey":
                raise
            raise SourceChangedError(
                f"{error.message}; it was deleted during its transfer", response=error.response
            ) from error

    async def _check_absent(self, target: tuple[str, str]) -> None:
        """Ask first: not every store heeds If-None-Match on a copy."""
        try:
            await self._session.call("HEAD", *target)
        except (AccessError, NotFoundError):
            return
        what = self._session.describe(*target)
        raise DestinationError(f"{what}: it exists already, and is not to be replaced")

    def _source_headers(self, origin: tuple[str, str], entry: Entry) -> Mapping[str, str]:
        bucket, key = origin
        headers = {_SOURCE: f"{encoded_path(bucket)}/{encoded_path(key)}"}
        if entry.etag is not None:
            headers[f"{_SOURCE}-if-match"] = entry.etag
        return headers | dict(
            customer_key_headers(self._session.s3, f"{_SOURCE}-server-side-encryption-customer")
        )

    async def _copy_object(
        self, target: tuple[str, str], entry: Entry, source: Mapping[str, str]
    ) -> None:
        # All that is kept is said, since the directive decides for all of it together.
        headers = {**object_headers(self._session.s3, entry), **source}
        headers["x-amz-metadata-directive"] = "REPLACE"
        if not self._session.s3.overwrite:
            headers["If-None-Match"] = "*"
        answer = await self._session.send("PUT", *target, headers=headers)
        _etag_of_copy(answer, self._session.describe(*target))

    async def _copy_parts(
        self, target: tuple[str, str], entry: Entry, source: Mapping[str, str]
    ) -> None:
        size = fit_chunk_size(entry.size, self._part, [_LIMITS])
        upload = _CopiedUpload(self._session, *target, entry, size)
        await upload.open()
        try:
            with single_error():
                async with anyio.create_task_group() as tasks:
                    for chunk in plan_chunks(entry.size, size):
                        tasks.start_soon(upload.copy_part, chunk, source)
            await upload.complete(entry.size)
        except BaseException:
            with anyio.move_on_after(1.5, shield=True):
                await upload.abort(discard=True)
            raise


class _CopiedUpload(MultipartUpload):
    """A multipart upload whose parts are stretches of another object."""

    def _choice(self) -> ChecksumChoice:
        return ChecksumChoice(())  # the bytes are not here to make one of

    async def _look_back(self) -> None:
        pass  # nobody knows what is in the parts of another upload

    async def copy_part(self, chunk: Chunk, source: Mapping[str, str]) -> None:
        """Have one part copied."""
        headers = {
            **customer_key_headers(self._session.s3),
            **source,
            f"{_SOURCE}-range": f"bytes={chunk.start}-{chunk.stop - 1}",
        }

        async def ask() -> str:
            async with self._session.uploads:
                answer = await self._session.send(
                    "PUT", *self._target, query=self._part_query(chunk), headers=headers
                )
            return _etag_of_copy(answer, self._what)

        self._etags[chunk.index] = await retrying(ask, self._session.options.retry)


def _etag_of_copy(answer: Response, what: str) -> str:
    """Return the ETag of what was copied.

    The status is sent before the copy is made, so the body decides. A store that does not
    know copies takes the request for one that writes an empty body.

    Raises:
        UnsupportedError: if nothing was copied.
        TransferError: if the copy failed.
    """
    body = answer.body.decode(errors="replace")
    if element(body, "Code"):
        raise response_error(answer, what)
    etag = element(body, "ETag")
    if not etag:
        raise UnsupportedError(f"{what}: the store does not copy by itself", response=answer)
    return etag
