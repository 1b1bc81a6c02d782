"""The proof that a store has received the bytes that were sent.

The best proof is a checksum that the store verified, which it shows by repeating it. Next comes the
ETag, which is the MD5 of what was stored, unless it is encrypted with SSE-KMS or SSE-C. MD5 costs
a core one second per 600 MB, so it is computed only if there is no checksum.
"""

from __future__ import annotations

import base64

from hftransfer._core.checksums import header_name
from hftransfer._io.buffers import BufferPool
from hftransfer._io.file_range import FileRange
from hftransfer.errors import NetworkError, Response
from hftransfer.stores.s3.hashing import md5_of
from hftransfer.stores.s3.headers import md5_digest

__all__ = ("SentBody", "content_md5_header")


def content_md5_header(md5: str) -> dict[str, str]:
    """Return the Content-MD5 header (RFC 1864), which makes a store verify the body.

    Args:
        md5: in hex.
    """
    return {"Content-MD5": base64.b64encode(bytes.fromhex(md5)).decode()}


class SentBody:
    """The body of one PUT or part, and what a response proves about it.

    Args:
        body: in memory, or in a file.
        buffers: provide the window through which a file is hashed.
        context: of the object; start of the message.
    """

    def __init__(self, body: memoryview | FileRange, buffers: BufferPool, context: str) -> None:
        self._body = body
        self._buffers = buffers
        self._context = context
        self._md5: str | None = None

    async def md5(self) -> str:
        """Return the MD5 of the body in hex; it is computed once."""
        if self._md5 is None:
            self._md5 = await md5_of(self._body, self._buffers)
        return self._md5

    async def is_confirmed(self, response: Response, algorithm: str | None, checksum: str) -> bool:
        """Return True if the response proves that the store has these bytes.

        Args:
            response: to the upload.
            algorithm: of the checksum that was sent; None for none.
            checksum: as it was sent.

        Returns:
            False if the response proves nothing.

        Raises:
            NetworkError: if the store has other bytes: they were damaged in transit.
        """
        if algorithm is not None and response.headers.get(header_name(algorithm)) == checksum:
            return True
        stored = md5_digest(response.headers.get("ETag"), response.headers)
        if stored is None:
            return False
        sent = await self.md5()
        if stored.value != sent:
            raise NetworkError(
                f"{self._context}: the upload was damaged in transit: its MD5 is {sent}, but the "
                f"ETag of what was stored is {stored.value} (if the ETags of this store are no "
                "MD5s, set verify to False)",
                response=None,
            )
        return True
