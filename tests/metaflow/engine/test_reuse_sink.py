"""A sink of a local folder that keeps the files whose content is already the expected one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("metaflow.decorators")

from hftransfer._io.buffers import BufferPool
from hftransfer.stores.base import Entry
from metaflow_extensions.hftransfer.plugins.engine.reuse_sink import ReuseSink
from support.metaflow_stores import stored_folder

pytestmark = pytest.mark.metaflow


@pytest.mark.asyncio
async def test_only_files_with_the_recorded_chunks_are_kept(tmp_path: Path) -> None:
    """No link, no file of another size, no file with another content."""
    source, manifest = stored_folder(tmp_path / "stored")
    target = tmp_path / "target"
    shutil.copytree(source, target)
    files = manifest.files.items()
    entries = [Entry(path=name, size=file.size, manifest=file) for name, file in files]
    buffers = BufferPool(1 << 20)
    sink = ReuseSink(target, buffers)

    async def kept() -> list[str]:
        await sink.prepare(entries)
        found = []
        for entry in entries:
            file = await sink.begin(entry, 64)
            if file is None:
                found.append(entry.path)
            else:
                await file.abort(discard=True)
        return found

    assert await kept() == ["a", "deep/b"]
    (target / "a").write_bytes(b"?" * 100)
    (target / "deep" / "b").write_bytes(b"b" * 999)
    assert await kept() == []
    (target / "a").unlink()
    (target / "a").symlink_to(source / "a")
    shutil.rmtree(target / "deep")
    assert await kept() == []
    assert buffers.in_use == 0


@pytest.mark.asyncio
async def test_files_of_an_earlier_page_of_the_listing_are_kept(tmp_path: Path) -> None:
    """The next page is prepared while they wait."""
    source, manifest = stored_folder(tmp_path / "stored")
    pages = [
        [Entry(path=name, size=file.size, manifest=file)] for name, file in manifest.files.items()
    ]
    sink = ReuseSink(source, BufferPool(1 << 20))
    for page in pages:
        await sink.prepare(page)

    assert [await sink.begin(page[0], 64) for page in pages] == [None] * len(pages)


@pytest.mark.asyncio
async def test_existing_files_are_hashed_within_the_memory_budget(tmp_path: Path) -> None:
    """While another buffer uses up the budget, the hashing waits for memory."""
    import anyio

    source, manifest = stored_folder(tmp_path / "stored")
    entry = Entry(path="a", size=100, manifest=manifest.files["a"])
    buffers = BufferPool(1 << 20)
    sink = ReuseSink(source, buffers)
    await sink.prepare([entry])

    async with buffers.lease(1 << 20):
        with anyio.move_on_after(0.1) as waiting:
            await sink.begin(entry, 64)

    assert waiting.cancelled_caught
    assert await sink.begin(entry, 64) is None
