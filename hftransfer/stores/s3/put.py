"""A file of at most one chunk that is uploaded by one PUT."""

from __future__ import annotations

from functools import partial

from hftransfer._core.checksums import encode_checksum, header_name
from hftransfer._core.manifest import FileManifest
from hftransfer._core.plan import Chunk
from hftransfer._io.retry import retrying
from hftransfer.errors import Response, TransferError
from hftransfer.stores.s3.errors import is_precondition_failure
from hftransfer.stores.s3.etags import etag_md5
from hftransfer.stores.s3.hashing import checksum_of, md5_of
from hftransfer.stores.s3.headers import object_headers
from hftransfer.stores.s3.target import Upload, UploadTarget

__all__ = ("SingleUpload",)


class SingleUpload(Upload):
    """A `FileSink` of one PUT, which is atomic: the object is absent, or whole and verified."""

    def __init__(self, target: UploadTarget) -> None:
        super().__init__(target)
        self._etag = ""
        """Of the object that the last PUT has created."""

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        """Store the file. The engine retries this, so nothing is retried inside."""
        await self._put(data, digest)

    async def commit(self, manifest: FileManifest) -> None:
        if manifest.size == 0:  # an empty file has no chunk, so `write` was not called
            put = partial(self._put, memoryview(b""), "")
            await retrying(put, self._target.retry)
        self._target.on_created(self._etag)

    async def abort(self, *, discard: bool) -> None:
        pass  # there is nothing to undo

    async def _put(self, data: memoryview, digest: str) -> None:
        negotiation = self._target.client.put_checksums
        if not negotiation.settled:
            async with negotiation.probe_lock:
                if not negotiation.settled:
                    await self._negotiate(data, digest)
                    return
        await self._negotiate(data, digest)

    async def _negotiate(self, data: memoryview, digest: str) -> None:
        """Send the PUT, again with the next checksum if the store rejects or ignores one."""
        negotiation = self._target.client.put_checksums
        while True:
            algorithm = negotiation.candidate
            checksum = ""
            if algorithm is not None:
                checksum = encode_checksum(await checksum_of(algorithm, data, digest))
            try:
                response = await self._send(data, algorithm, checksum)
            except TransferError as error:
                if self._target.precondition and is_precondition_failure(error):
                    await self._verify_existing(data)
                    return
                if algorithm is None or not negotiation.may_have_caused(error):
                    raise
                negotiation.reject(algorithm)
                continue
            if algorithm is None or response.headers.get(header_name(algorithm)) == checksum:
                negotiation.confirm(algorithm)
                return
            negotiation.reject(algorithm)
            # The object is stored, but not verified. With If-None-Match it cannot be sent again.
            if self._target.precondition or negotiation.candidate is None:
                return

    async def _send(self, data: memoryview, algorithm: str | None, checksum: str) -> Response:
        client = self._target.client
        headers = {**object_headers(client.s3, self._target.entry), **self._target.precondition}
        if algorithm is not None:
            headers[header_name(algorithm)] = checksum
        async with client.upload_limiter:
            response = await client.send(
                "PUT",
                *self._target.bucket_key,
                headers=headers,
                body=data,
                # With If-None-Match the store would refuse the second request after the first.
                repeatable=not self._target.precondition,
            )
        self._etag = response.headers.get("ETag", "")
        return response

    async def _verify_existing(self, data: memoryview) -> None:
        """Accept an existing object with the same MD5, as an earlier attempt may have stored it.

        One HEAD without retries; if it fails, the PUT is retried as a whole.

        Raises:
            DestinationError: if the object has other content.
        """
        headers = await self._target.head()
        stored = None if headers is None else etag_md5(headers.get("ETag", ""))
        if stored is None or stored != await md5_of(data, self._target.client.buffers):
            raise self._target.exists_error()
