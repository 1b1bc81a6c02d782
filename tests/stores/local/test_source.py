"""`hftransfer.stores.local.source`: listing, reading, and files that change while being read."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer.errors import (
    NotFoundError,
    SourceChangedError,
)
from hftransfer.stores.base import Entry
from hftransfer.stores.local.sink import LocalSink
from hftransfer.stores.local.source import LocalSource
from support.files import tree
from support.local_files import (
    CONTENT,
    begin,
    entry_of,
    make,
    without_privileges,
    write,
)


async def read(source: LocalSource, entry: Entry, start: int = 0, stop: int | None = None) -> bytes:
    buffer = bytearray((entry.size if stop is None else stop) - start)
    await source.fill(entry, ByteRangeBuffer(start, memoryview(buffer)))
    return bytes(buffer)


@pytest.mark.anyio
async def test_list_returns_every_file_below_the_folder(tmp_path: Path) -> None:
    """Files at every depth, hidden ones included, are listed once, in a stable order."""
    make(tmp_path, "b.txt", "a/x.bin", "a/b/c.bin", ".hidden", ".cache/other/file")
    (tmp_path / "empty-folder").mkdir()
    source = LocalSource(tmp_path)
    entries = await source.list()

    assert [entry.path for entry in entries] == [entry.path for entry in await source.list()]
    assert sorted(entry.path for entry in entries) == [
        ".cache/other/file",
        ".hidden",
        "a/b/c.bin",
        "a/x.bin",
        "b.txt",
    ]
    for entry in entries:
        assert await read(source, entry) == entry.path.encode()
    assert not source.single
    assert len({entry.identity for entry in entries}) == 5


@pytest.mark.anyio
async def test_a_single_file_is_listed_under_its_name(tmp_path: Path) -> None:
    """A location that is a file has one entry; `fill` and `stream` read it."""
    path = tmp_path / "deep" / "model.bin"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    source = LocalSource(path)
    (entry,) = await source.list()

    assert (entry.path, entry.size, source.single) == ("model.bin", len(CONTENT), True)
    assert await read(source, entry, 100, 1700) == CONTENT[100:1700]
    head, rest = bytearray(10), bytearray(len(CONTENT) - 10)
    async with source.stream(entry) as body:
        await body.readinto(memoryview(head))
        await body.readinto(memoryview(rest))
    assert bytes(head + rest) == CONTENT


@pytest.mark.anyio
async def test_partial_files_and_hub_metadata_are_not_listed(tmp_path: Path) -> None:
    """Files of interrupted transfers and of `local_dir` downloads are not content."""
    sink = LocalSink(tmp_path)
    interrupted = await begin(sink, entry_of("model.bin"))
    await write(interrupted, CONTENT, count=2)
    await interrupted.abort(discard=False)
    make(
        tmp_path,
        "config.json",
        ".cache/huggingface/download/config.json.metadata",
        "data/.cache/huggingface/kept.json",
        "notes.incomplete",
    )
    assert len(tree(tmp_path)) == 6, "the partial file and its journal are there"

    listed = {entry.path for entry in await LocalSource(tmp_path).list()}
    assert listed == {"config.json", "data/.cache/huggingface/kept.json", "notes.incomplete"}


@pytest.mark.anyio
async def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    """huggingface_hub's cache consists of links to files; a link to a folder can form a cycle."""
    make(tmp_path, "blobs/b1", "snapshot/plain")
    (tmp_path / "snapshot/model.bin").symlink_to("../blobs/b1")
    (tmp_path / "snapshot/loop").symlink_to("..")
    source = LocalSource(tmp_path / "snapshot")
    entries = {entry.path: entry for entry in await source.list()}

    assert sorted(entries) == ["model.bin", "plain"]
    assert await read(source, entries["model.bin"]) == b"blobs/b1"


@pytest.mark.anyio
async def test_a_missing_path_is_not_found(tmp_path: Path) -> None:
    """The message names the path."""
    with pytest.raises(NotFoundError, match="absent: no such file or folder"):
        await LocalSource(tmp_path / "absent").list()


def _truncate(path: Path) -> None:
    os.truncate(path, 1500)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _rewrite(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(CONTENT[::-1])
    os.replace(other, path)


def _touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.anyio
@pytest.mark.parametrize("change", [_truncate, _grow, _rewrite, _touch])
async def test_reading_a_file_changed_after_listing_fails(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """A source that is modified while it is copied gives an error, not a mixture of contents."""
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    source = LocalSource(tmp_path)
    (entry,) = await source.list()
    await anyio.to_thread.run_sync(change, path)

    with pytest.raises(SourceChangedError, match=r"model\.bin was changed while it was being read"):
        await read(source, entry, 1000, 2000)


@pytest.mark.anyio
@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="preadv2 is not available")
@pytest.mark.parametrize(
    ("nowait_error", "asked_again"), [(errno.EAGAIN, True), (errno.EOPNOTSUPP, False), (None, True)]
)
async def test_a_small_read_uses_a_thread_only_if_it_must_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nowait_error: int | None, asked_again: bool
) -> None:
    """Cached bytes are read in the event loop. A file system without RWF_NOWAIT is asked once."""
    data = b"content"
    (tmp_path / "f").write_bytes(data)
    source = LocalSource(tmp_path)
    (entry,) = await source.list()
    real = os.preadv
    calls: list[tuple[int, bool]] = []

    def preadv(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        here = threading.current_thread() is threading.main_thread()
        calls.append((flags, here))
        if flags and nowait_error is not None:
            raise OSError(nowait_error, os.strerror(nowait_error))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    for _ in range(2):
        memory = bytearray(len(data))
        await source.fill(entry, ByteRangeBuffer(0, memoryview(memory)))
        assert memory == data

    inline = (os.RWF_NOWAIT, True)
    in_a_thread = (0, False)
    if nowait_error is None:
        assert calls == [inline] * 2
    else:
        assert calls == [inline, in_a_thread, *[inline] * asked_again, in_a_thread]


@pytest.mark.anyio
async def test_reading_a_file_removed_after_listing_fails(tmp_path: Path) -> None:
    """The error is that the source changed, not that the location does not exist."""
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    source = LocalSource(tmp_path)
    (entry,) = await source.list()
    path.unlink()

    with pytest.raises(SourceChangedError, match=r"model\.bin was removed"):
        await read(source, entry)


def test_a_file_without_read_permission_is_an_access_error(tmp_path: Path) -> None:
    """Listing names the unreadable folder and reading names the file, with the reason."""
    make(tmp_path, "closed.bin", "shut/inside")
    (tmp_path / "closed.bin").chmod(0)
    (tmp_path / "shut").chmod(0)
    printed = without_privileges(
        tmp_path,
        """
        async def main():
            try:
                await LocalSource(folder).list()
            except TransferError as error:
                print(type(error).__name__, error)
            source = LocalSource(folder / "closed.bin")
            (entry,) = await source.list()
            try:
                await source.fill(entry, ByteRangeBuffer(0, memoryview(bytearray(entry.size))))
            except TransferError as error:
                print(type(error).__name__, error)
        anyio.run(main)
        """,
    )
    (tmp_path / "shut").chmod(0o755)

    listed, opened = printed.splitlines()
    assert listed == f"AccessError cannot read {tmp_path}/shut: Permission denied"
    assert opened == f"AccessError cannot read {tmp_path}/closed.bin: Permission denied"
