"""The parts of a multipart upload: reused from an orphaned upload, or sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from hftransfer._core.checksums import combine_crcs, encode_checksum, header_name
from hftransfer._core.plan import Chunk
from hftransfer._io.file_range import FileRange
from hftransfer.errors import IntegrityError, Response, TransferError
from hftransfer.stores.s3.answers import required_etag
from hftransfer.stores.s3.confirmation import SentBody, content_md5_header
from hftransfer.stores.s3.hashing import md5_of
from hftransfer.stores.s3.headers import customer_key_headers
from hftransfer.stores.s3.hedging import HedgedRequest
from hftransfer.stores.s3.open_upload import OpenUpload, restart_error
from hftransfer.stores.s3.resume import Part

__all__ = ("PartUploader", "UploadedParts")


@dataclass
class UploadedParts:
    """The parts that the store has. Chunk `i` is part ``i + 1``; the keys are chunk indices."""

    verified: bool
    """True if the store has repeated, and so verified, the checksum of every part so far."""
    confirmed: bool = True
    """True if the checksum or the MD5 of every part so far shows that the store has its bytes."""
    etags: dict[int, str] = field(default_factory=dict)
    checksums: dict[int, bytes] = field(default_factory=dict)

    def whole_checksum(self, name: str | None, sizes: Sequence[int]) -> bytes | None:
        """Return the checksum of the whole object, or None if a part was not verified.

        Args:
            name: of the parts' checksum; None for none.
            sizes: bytes of each part.
        """
        if name is None or not self.verified:
            return None
        return combine_crcs(name, [(self.checksums[i], size) for i, size in enumerate(sizes)])


class PartUploader:
    """Uploads the parts of one upload.

    Args:
        upload: that the parts belong to.
        orphaned: parts that the upload already has, by part number. A part with the content of
            its chunk is not sent again.
    """

    def __init__(self, upload: OpenUpload, orphaned: Mapping[int, Part]) -> None:
        self.uploaded = UploadedParts(verified=upload.checksum is not None)
        self._upload = upload
        self._target = upload.target
        self._orphaned = orphaned

    async def put(self, chunk: Chunk, body: memoryview | FileRange, checksum: bytes | None) -> None:
        """Make the store have one part, by at most one request and its hedge.

        Args:
            chunk: which part.
            body: its bytes.
            checksum: of `body`, by the upload's algorithm; None if that has none.

        Raises:
            IntegrityError: if the upload has to restart: it is gone or holds other content.
            TransferError: if the request fails.
        """
        if checksum is not None:
            self.uploaded.checksums[chunk.index] = checksum
        etag = await self._reuse(chunk, body)
        if etag is None:
            etag = await self._send(chunk, body, checksum)
        self.uploaded.etags[chunk.index] = etag

    async def _reuse(self, chunk: Chunk, body: memoryview | FileRange) -> str | None:
        """Return the ETag of the orphaned part that holds `body`, or None if there is no part."""
        part = self._orphaned.get(chunk.index + 1)
        if part is None or chunk.index in self.uploaded.etags:
            return None
        if part.md5 == await md5_of(body, self._target.client.buffers):
            return part.etag
        # One object must not be made of two contents.
        raise IntegrityError(
            f"{self._target.description}: part {chunk.index + 1} of an interrupted upload holds "
            "other content than the file; the upload has to start again"
        )

    async def _send(
        self, chunk: Chunk, body: memoryview | FileRange, checksum: bytes | None
    ) -> str:
        """Send one part and return its ETag."""
        client, algorithm = self._target.client, self._upload.checksum
        headers = dict(customer_key_headers(client.s3))
        sent = SentBody(body, client.buffers, self._target.description)
        if checksum is not None and algorithm is not None:
            headers[header_name(algorithm)] = encode_checksum(checksum)
        elif client.options.verify:
            headers |= content_md5_header(await sent.md5())
        send = partial(
            client.send,
            "PUT",
            *self._target.bucket_key,
            query=self._upload.query(partNumber=str(chunk.index + 1)),
            headers=headers,
            body=body,
        )
        try:
            async with client.upload_limiter:
                response = await HedgedRequest(send, client.hedge_timer).run()
        except TransferError as error:
            if self._upload.must_restart(error):
                raise restart_error(error) from error
            raise
        etag = required_etag(response, self._target.description)
        encoded = "" if checksum is None else encode_checksum(checksum)
        await self._check(response, encoded, sent)
        return etag

    async def _check(self, response: Response, checksum: str, sent: SentBody) -> None:
        """Check that the store has the bytes of a part, and record how that is known.

        Raises:
            NetworkError: if it has other bytes; the part can be sent again.
        """
        client, algorithm = self._target.client, self._upload.checksum
        is_repeated = (
            algorithm is not None and response.headers.get(header_name(algorithm)) == checksum
        )
        if algorithm is not None and is_repeated:
            client.part_checksums.confirm(algorithm)
            return
        self.uploaded.verified = False
        if algorithm is not None:
            client.part_checksums.reject(algorithm)
        if not client.options.verify or not await sent.is_confirmed(response, algorithm, checksum):
            self.uploaded.confirmed = False
