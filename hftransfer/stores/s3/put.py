"""A file of at most one chunk that is uploaded by one PUT."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from hftransfer._core.checksums import encode_checksum, header_name
from hftransfer._core.manifest import FileManifest
from hftransfer._core.plan import Chunk
from hftransfer._io.retry import retrying
from hftransfer.errors import NetworkError, Response, TransferError, UnsupportedError
from hftransfer.stores.s3.answers import required_etag
from hftransfer.stores.s3.conditions import MAX_PROBE, Condition
from hftransfer.stores.s3.confirmation import SentBody, content_md5_header
from hftransfer.stores.s3.errors import is_precondition_failure
from hftransfer.stores.s3.etags import etag_md5
from hftransfer.stores.s3.hashing import checksum_of
from hftransfer.stores.s3.headers import object_headers
from hftransfer.stores.s3.target import Upload, UploadTarget

__all__ = ("SingleUpload",)


class SingleUpload(Upload):
    """A `FileSink` of one PUT, which is atomic: the object is absent, or whole and verified."""

    def __init__(self, target: UploadTarget) -> None:
        super().__init__(target)
        self._etag = ""
        """Of the object that the last PUT has created."""
        self._is_created = False
        """True once the store has stored the object for us: then it may be replaced."""
        self._is_damaged = False
        """True while the object that the store has is known to differ from the file."""

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        """Store the file. The engine retries this, so nothing is retried inside."""
        await self._put(data, digest)

    async def commit(self, manifest: FileManifest) -> None:
        if manifest.size == 0:  # an empty file has no chunk, so `write` was not called
            put = partial(self._put, memoryview(b""), "")
            await retrying(put, self._target.retry)
        if self._target.exclusive:
            self._target.exclusive_writes.record(self._condition)
        self._target.on_created(self._etag)

    async def abort(self, *, discard: bool) -> None:
        """Delete an object that was damaged in transit; nothing else is there to undo."""
        if self._is_damaged:
            with suppress(TransferError):  # the failure that led here is clearer
                await self._target.client.send("DELETE", *self._target.bucket_key)

    @property
    def _condition(self) -> Condition:
        return self._target.conditions.put

    @property
    def _is_conditional(self) -> bool:
        return self._target.exclusive and not self._is_created

    async def _put(self, data: memoryview, digest: str) -> None:
        body = SentBody(data, self._target.client.buffers, self._target.description)
        # A store may ignore the condition, until the opposite is proven.
        if self._is_conditional and not self._condition.is_proven:
            existing = await self._target.find_existing()
            if existing is not None:
                await self._accept_existing(existing.get("ETag", ""), body)
                return
        negotiation = self._target.client.put_checksums
        if not negotiation.settled:
            async with negotiation.probe_lock:
                if not negotiation.settled:
                    await self._negotiate(data, digest, body)
                    return
        await self._negotiate(data, digest, body)

    async def _negotiate(self, data: memoryview, digest: str, body: SentBody) -> None:
        """Send the PUT, again with the next checksum if the store rejects or ignores one."""
        negotiation = self._target.client.put_checksums
        while True:
            algorithm = negotiation.candidate
            checksum = ""
            if algorithm is not None:
                checksum = encode_checksum(await checksum_of(algorithm, data, digest))
            send = partial(self._send, data, algorithm, checksum, body)
            is_conditional = self._is_conditional
            try:
                response = await send(conditional=is_conditional)
            except TransferError as error:
                if is_conditional and is_precondition_failure(error):
                    self._condition.confirm()
                    await self._accept_refusal(body)
                    return
                if algorithm is not None and negotiation.may_have_caused(error):
                    negotiation.reject(algorithm)
                    continue
                has_condition = is_conditional and self._condition.headers
                if has_condition and isinstance(error, UnsupportedError):
                    self._condition.refuse(self._target.description)
                    continue
                raise
            await self._check(response, algorithm, checksum, body)
            if is_conditional and len(data) <= MAX_PROBE:
                again = await self._condition.probe(partial(send, conditional=True))
                if again is not None:
                    self._condition.reject(self._target.description)
                    await self._check(again, algorithm, checksum, body)
            # Sent again with the next checksum, the object has one for those who read it. Under
            # the condition it is sent again only if nothing else confirms it.
            if negotiation.settled or (self._target.exclusive and self.is_confirmed):
                return

    async def _send(
        self,
        data: memoryview,
        algorithm: str | None,
        checksum: str,
        body: SentBody,
        *,
        conditional: bool,
    ) -> Response:
        client = self._target.client
        headers = {**object_headers(client.s3, self._target.entry)}
        if conditional:
            headers |= self._condition.headers
        if algorithm is not None:
            headers[header_name(algorithm)] = checksum
        if not client.put_checksums.confirmed and client.options.verify:
            # Without a checksum the store would publish damaged bytes before the ETag shows it.
            headers |= content_md5_header(await body.md5())
        async with client.upload_limiter:
            return await client.send(
                "PUT",
                *self._target.bucket_key,
                headers=headers,
                body=data,
                # With If-None-Match the store would refuse the second request after the first.
                repeatable=not conditional,
            )

    async def _check(
        self, response: Response, algorithm: str | None, checksum: str, body: SentBody
    ) -> None:
        """Check that the store has the bytes that were sent, and record how that is known.

        Raises:
            RejectedError: if no S3 store has answered.
            NetworkError: if it has other bytes.
        """
        negotiation = self._target.client.put_checksums
        self._etag = required_etag(response, self._target.description)
        self._is_created = True
        is_repeated = (
            algorithm is not None and response.headers.get(header_name(algorithm)) == checksum
        )
        if is_repeated:
            negotiation.confirm(algorithm)
        elif algorithm is not None:
            negotiation.reject(algorithm)
        if not self._target.client.options.verify:
            self.is_confirmed = is_repeated
            return
        try:
            self.is_confirmed = await body.is_confirmed(response, algorithm, checksum)
        except NetworkError:
            self._is_damaged = True
            raise
        self._is_damaged = False

    async def _accept_refusal(self, body: SentBody) -> None:
        """Accept the object for which the store refused the PUT, if it has the same content.

        One HEAD without retries; if it fails, the PUT is retried as a whole.

        Raises:
            DestinationError: if the object has other content.
        """
        headers = await self._target.head()
        await self._accept_existing("" if headers is None else headers.get("ETag", ""), body)

    async def _accept_existing(self, etag: str, body: SentBody) -> None:
        """Accept an existing object with the same MD5, as an earlier attempt may have stored it.

        Raises:
            DestinationError: if the object has other content.
        """
        stored = etag_md5(etag)
        if stored is None or stored != await body.md5():
            raise self._target.exists_error()
        self.is_confirmed = True
