"""A sink that keeps nothing: for whoever wants bytes read and checked, and no copy of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.plan import Chunk, PartLimits
from hftransfer.errors import UnsupportedError
from hftransfer.stores.base import Entry, FileSink

__all__ = ("NullSink",)


class NullSink:
    """Takes every file and forgets it."""

    limits = PartLimits()
    location = "nowhere"

    async def prepare(self, entries: Sequence[Entry]) -> None:
        pass

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        return _Discarded()

    async def finish(self, manifest: Manifest) -> None:
        pass


class _Discarded:
    def __init__(self) -> None:
        self.resumable_chunks: Mapping[int, str] = {}

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        raise UnsupportedError(f"chunk {chunk.index} was discarded")

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        pass

    async def commit(self, manifest: FileManifest) -> None:
        pass

    async def abort(self, *, discard: bool) -> None:
        pass
