"""Small files, options and sources for tests of the engine against memory stores."""

from __future__ import annotations

import os

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.manifest import Manifest
from hftransfer._engine.transfer import Context, transfer
from hftransfer.options import RetryPolicy, TransferOptions
from hftransfer.report import Report
from hftransfer.stores.base import Entry
from hftransfer.stores.local.source import LocalSource
from hftransfer.stores.memory import MemoryStore

CHUNK = 64 * 1024
RETRY = RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0)
OPTIONS = TransferOptions(chunk_size=CHUNK, connections=4, memory_budget=4 * CHUNK, retry=RETRY)
FILES = {
    "empty": b"",
    "small": b"a few bytes",
    "exact": os.urandom(2 * CHUNK),
    "folder/large": os.urandom(9 * CHUNK + 17),
}


async def move(
    source: MemoryStore | LocalSource,
    *sinks: MemoryStore,
    context: Context | None = None,
    manifest: Manifest | None = None,
) -> Report:
    """Transfer all files of `source` into every one of `sinks`.

    Args:
        source: where to read.
        sinks: where to write.
        context: limits. Default: those of `OPTIONS`.
        manifest: expected instead of the source's digests. Default: none.
    """
    entries = await source.list()
    if manifest is not None:
        entries = [
            Entry(path=entry.path, size=entry.size, manifest=manifest.files[entry.path])
            for entry in entries
        ]
    return await transfer(source, sinks, entries, context or Context.make(OPTIONS))


class CorruptingSource(MemoryStore):
    """Flips a byte of ``folder/large`` the first `times` times that its start is read."""

    def __init__(self, *, times: int) -> None:
        super().__init__(FILES)
        self.times = times

    async def fill(self, entry: Entry, span: ByteRangeBuffer) -> None:
        await super().fill(entry, span)
        if entry.path == "folder/large" and span.start == 0 and self.times:
            self.times -= 1
            span.buffer[100] ^= 1
