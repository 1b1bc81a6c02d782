"""A sink that discards what it is given: the source is read and verified, nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.plan import Chunk, PartLimits
from hftransfer.errors import UnsupportedError
from hftransfer.stores.base import Entry, FileSink

__all__ = ("NullSink",)


class NullSink:
    """Accepts every file and discards its bytes."""

    limits = PartLimits()
    location = "nowhere"

    async def prepare(self, entries: Sequence[Entry]) -> None:
        pass

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        return _NullFileSink()

    async def finish(self, manifest: Manifest) -> None:
        pass


class _NullFileSink:
    def __init__(self) -> None:
        self.resumable_chunks: Mapping[int, str] = {}

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        raise UnsupportedError("discarded chunks cannot be read back")

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        pass

    async def commit(self, manifest: FileManifest) -> None:
        pass

    async def abort(self, *, discard: bool) -> None:
        pass
