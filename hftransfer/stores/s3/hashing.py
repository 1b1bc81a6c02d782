"""Checksums and MD5s of request bodies, computed without blocking the event loop."""

from __future__ import annotations

import hashlib

import anyio.to_thread

from hftransfer._core.checksums import checksum
from hftransfer._core.digests import INLINE_HASH_LIMIT, chunk_digest
from hftransfer._io.buffers import BufferPool
from hftransfer._io.file_range import HASH_WINDOW_SIZE, FileRange

__all__ = ("checksum_of", "md5_of")

# Bytes that are hashed in the event loop, sooner than a worker thread starts. More than
# `INLINE_HASH_LIMIT`, which also holds for SHA-256: XXH3 and CRCs are several times as fast.
_INLINE = 256 * 1024


async def checksum_of(name: str, data: memoryview, digest: str = "") -> bytes:
    """Return the checksum `name` of `data`; large data is hashed in a worker thread.

    Args:
        name: one of `hftransfer._core.checksums.supported_checksums`.
        data: the bytes.
        digest: their XXH3-128 in hex; computed here if empty.
    """
    if len(data) <= _INLINE or (digest and name == "XXHASH128"):
        return checksum(name, data, digest or chunk_digest(data))
    return await anyio.to_thread.run_sync(checksum, name, data, digest or chunk_digest(data))


async def md5_of(body: memoryview | FileRange, buffers: BufferPool) -> str:
    """Return the MD5 of `body` in hex; large data is hashed in a worker thread.

    Args:
        body: in memory, or in a file that is read through a window of buffer memory.
        buffers: provide the window.
    """
    if not isinstance(body, FileRange):
        if len(body) <= INLINE_HASH_LIMIT:
            return _md5(body)
        return await anyio.to_thread.run_sync(_md5, body)
    async with buffers.lease(min(HASH_WINDOW_SIZE, buffers.budget)) as window:
        (digest,) = await anyio.to_thread.run_sync(body.digests, ["md5"], window)
        return digest


def _md5(data: memoryview) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
