"""Helpers for tests of the local store: contents, chunks, folders, unprivileged processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from hftransfer._core.digests import chunk_digest
from hftransfer._core.plan import plan_chunks
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.local.sink import LocalSink

CHUNK = 1000
CONTENT = bytes(index % 253 for index in range(2 * CHUNK + 345))


def entry_of(path: str, content: bytes = CONTENT, etag: str = "v1") -> Entry:
    return Entry(path=path, size=len(content), etag=etag)


async def begin(sink: LocalSink, entry: Entry) -> FileSink:
    opened = await sink.begin(entry, CHUNK)
    assert opened is not None
    return opened


async def write(file: FileSink, content: bytes, *, count: int | None = None) -> None:
    """Write the chunks of `content`, last to first; only the first `count` of them if given."""
    for chunk in reversed(plan_chunks(len(content), CHUNK)[:count]):
        data = memoryview(content)[chunk.start : chunk.stop]
        await file.write(chunk, data, chunk_digest(data))


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def without_privileges(folder: Path, program: str) -> str:
    """Run `program`, in which `folder` is defined, in a child process; return its standard output.

    Root bypasses permissions, so the process first drops its capabilities (capset(2), header
    version 3, for itself). Other users have none.
    """
    header = f"""
        import ctypes, struct
        from pathlib import Path
        import anyio
        from hftransfer._core.plan import Chunk
        from hftransfer._core.byte_range import ByteRangeBuffer
        from hftransfer.errors import TransferError
        from hftransfer.stores.base import Entry
        from hftransfer.stores.local.sink import LocalSink
        from hftransfer.stores.local.source import LocalSource
        folder = Path({os.fspath(folder)!r})
        assert ctypes.CDLL(None).capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)) == 0
    """
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(header) + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
