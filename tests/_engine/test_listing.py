"""`hftransfer._engine.transfer` and `file_queue`: a source that is listed while files are moved."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import anyio.lowlevel
import pytest

from hftransfer._engine.file_queue import FileQueue
from hftransfer._engine.transfer import Context, transfer
from hftransfer.errors import LocationError, NetworkError, UnsupportedError
from hftransfer.stores.base import Entry, ListingPage, Source
from hftransfer.stores.memory import MemoryStore
from support.engine import OPTIONS

pytestmark = pytest.mark.anyio

_PAGE = 600


class _Pages:
    """A memory store of small files that counts the pages that were asked for."""

    def __init__(self, count: int) -> None:
        files = {f"{number:05d}": b"x" for number in range(count * _PAGE)}
        self.store = MemoryStore(files, digests=False)
        self.asked = 0
        self._count = count

    async def pages(self, *, failing: int = -1) -> AsyncGenerator[ListingPage, None]:
        paths = sorted(self.store.files)
        for page in range(self._count):
            self.asked += 1
            if page == failing:
                raise NetworkError("the listing was cut")
            names = paths[page * _PAGE : (page + 1) * _PAGE]
            entries = [Entry(path=name, size=1) for name in names]
            yield ListingPage(entries, page == self._count - 1)


async def test_the_listing_waits_while_no_file_is_finished() -> None:
    """Two pages are asked for, however many there are; then all of them."""
    source, sink = _Pages(10), MemoryStore()
    blocked = [source.store.hold(f"{number:05d}", 0) for number in range(32)]
    states: list[int] = []

    async def observe() -> None:
        while not source.store.reads:
            await anyio.lowlevel.checkpoint()
        for _ in range(300):  # enough for ten pages, if nothing held them back
            await anyio.lowlevel.checkpoint()
        states.append(source.asked)
        for each in blocked:
            each.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(observe)
        report = await transfer(source.store, [sink], source.pages(), Context.make(OPTIONS))

    assert states == [2]
    assert report.files == 10 * _PAGE == len(report.manifest.files)


async def test_a_failing_page_ends_the_transfer() -> None:
    """With its error; what was moved before stays, and nothing is open."""
    source, sink = _Pages(3), MemoryStore()

    with pytest.raises(NetworkError, match="the listing was cut"):
        await transfer(source.store, [sink], source.pages(failing=2), Context.make(OPTIONS))

    assert sink.open_files == 0
    assert set(sink.files) <= set(source.store.files)


async def test_a_file_may_be_left_out_or_completed_when_its_turn_comes() -> None:
    """`complete` sees every file once, and decides."""
    source, sink = _Pages(1), MemoryStore()
    seen: list[str] = []

    async def complete(entry: Entry) -> Entry | None:
        seen.append(entry.path)
        return None if entry.path.endswith("1") else entry

    report = await transfer(
        source.store, [sink], source.pages(), Context.make(OPTIONS), complete=complete
    )

    assert sorted(seen) == sorted(source.store.files)
    assert report.files == len(sink.files) == _PAGE - _PAGE // 10


async def test_a_path_that_another_page_has_too_is_refused() -> None:
    """Duplicates are found across pages."""
    source = _Pages(1)

    async def twice() -> AsyncGenerator[ListingPage, None]:
        async with aclosing(source.pages()) as pages:
            async for page in pages:
                yield ListingPage(page.entries, is_last=False)
                yield ListingPage(page.entries[-1:], is_last=True)

    with pytest.raises(LocationError, match="listed twice"):
        await transfer(source.store, [MemoryStore()], twice(), Context.make(OPTIONS))


class _CopyingStore(MemoryStore):
    """A sink that copies files from other memory stores, up to a size."""

    def __init__(self, *, most: int) -> None:
        super().__init__()
        self.most = most
        self.copied: list[str] = []
        self.copying = self.together = 0

    def copies_from(self, source: Source) -> bool:
        return isinstance(source, MemoryStore)

    async def copy_from(self, source: Source, entry: Entry) -> bool:
        assert isinstance(source, MemoryStore)
        self.copying += 1
        self.together = max(self.together, self.copying if not self.copied else 0)
        await anyio.lowlevel.checkpoint()
        self.copying -= 1
        if entry.size > self.most:
            raise UnsupportedError("too large")
        self.copied.append(entry.path)
        self.files[entry.path] = source.files[entry.path]
        return True


@pytest.mark.parametrize("most", [-1, 1, 100, 10**9])
async def test_what_the_store_does_not_copy_is_read_and_written(most: int) -> None:
    """Nothing, small files or all: each file arrives; the first copy is made alone."""
    files = {f"{size:07d}": bytes(size) for size in (0, 1, 50, 200, 100_000, 300_000)}
    source, sink = MemoryStore(files), _CopyingStore(most=most)

    report = await transfer(
        source, [sink], await source.list(), Context.make(OPTIONS), server_side=True
    )

    assert sink.files == files
    assert sorted(sink.copied) == [path for path in sorted(files) if int(path) <= most]
    assert report.server_side_bytes == sum(int(path) for path in sink.copied)
    assert report.bytes == sum(map(len, files.values())) - report.server_side_bytes
    assert sorted(report.manifest.files) == [path for path in files if path not in sink.copied]
    assert sink.together <= 1
    assert report.files == len(files)


async def test_the_queue_lets_workers_end_when_it_is_closed_and_empty() -> None:
    """A worker that waits is woken; what is queued is taken first."""
    queue = FileQueue()
    taken: list[str | None] = []

    async def work() -> None:
        while (entry := await queue.small.get()) is not None:
            taken.append(entry.path)
        taken.append(None)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.lowlevel.checkpoint()
        await queue.put([Entry(path="a", size=1)], [])
        queue.close()

    assert taken == ["a", None]
    assert await queue.large.get() is None
