"""`stores.local.store`: what is listed, what a changed file does, and what lands where."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import chunk_digest
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.plan import plan_chunks
from hftransfer.errors import (
    DestinationError,
    DiskFullError,
    LocationError,
    NotFoundError,
    SourceChangedError,
)
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.local.store import LocalFileSink, LocalSink, LocalSource, check_destination

CHUNK = 1000
CONTENT = bytes(index % 253 for index in range(2 * CHUNK + 345))


def entry_of(path: str, content: bytes = CONTENT, etag: str = "v1") -> Entry:
    return Entry(path=path, size=len(content), etag=etag)


def manifest_of(content: bytes) -> FileManifest:
    view = memoryview(content)
    chunks = plan_chunks(len(content), CHUNK)
    digests = tuple(chunk_digest(view[chunk.start : chunk.stop]) for chunk in chunks)
    return FileManifest(size=len(content), chunk_size=CHUNK, chunks=digests)


async def begin(sink: LocalSink, entry: Entry) -> FileSink:
    opened = await sink.begin(entry, CHUNK)
    assert opened is not None
    return opened


async def write(file: FileSink, content: bytes, *, count: int | None = None) -> None:
    """Write the chunks of `content`, last to first; only the first `count` of them if given."""
    for chunk in reversed(plan_chunks(len(content), CHUNK)[:count]):
        data = memoryview(content)[chunk.start : chunk.stop]
        await file.write(chunk, data, chunk_digest(data))


async def put(sink: LocalSink, path: str, content: bytes = CONTENT, etag: str = "v1") -> None:
    file = await begin(sink, entry_of(path, content, etag))
    await write(file, content)
    await file.commit(manifest_of(content))


async def read(source: LocalSource, entry: Entry, start: int = 0, stop: int | None = None) -> bytes:
    buffer = bytearray((entry.size if stop is None else stop) - start)
    await source.fill(entry, ByteRangeBuffer(start, memoryview(buffer)))
    return bytes(buffer)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


# --- source


@pytest.mark.anyio
async def test_a_folder_is_listed_with_all_below_it(tmp_path: Path) -> None:
    """Files of every depth, hidden ones too, are listed once, in a stable order, and read."""
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
async def test_one_file_is_listed_under_its_name(tmp_path: Path) -> None:
    """A file as location is one entry, of which any range can be read, also as a stream."""
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
async def test_bookkeeping_and_partial_files_are_left_out(tmp_path: Path) -> None:
    """What an interrupted transfer or `local_dir` left behind is not content."""
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
async def test_links_to_files_are_followed_and_to_folders_not(tmp_path: Path) -> None:
    """huggingface_hub's cache is made of links to files; a link to a folder may be a circle."""
    make(tmp_path, "blobs/b1", "snapshot/plain")
    (tmp_path / "snapshot/model.bin").symlink_to("../blobs/b1")
    (tmp_path / "snapshot/loop").symlink_to("..")
    source = LocalSource(tmp_path / "snapshot")
    entries = {entry.path: entry for entry in await source.list()}

    assert sorted(entries) == ["model.bin", "plain"]
    assert await read(source, entries["model.bin"]) == b"blobs/b1"


@pytest.mark.anyio
async def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    """The message is the path and that there is nothing."""
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
async def test_a_file_changed_after_listing_is_not_read(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """A source that is written to while it is copied gives an error, not a mixture."""
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    source = LocalSource(tmp_path)
    (entry,) = await source.list()
    await anyio.to_thread.run_sync(change, path)

    with pytest.raises(SourceChangedError, match=r"model\.bin was changed while it was being read"):
        await read(source, entry, 1000, 2000)


@pytest.mark.anyio
@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="not on this system")
@pytest.mark.parametrize(
    ("refusal", "again"), [(errno.EAGAIN, True), (errno.EOPNOTSUPP, False), (None, True)]
)
async def test_a_small_file_is_read_by_a_thread_where_the_disk_is_to_be_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int | None, again: bool
) -> None:
    """What is cached is read at once; a file system that cannot tell is asked only once."""
    data = b"content"
    (tmp_path / "f").write_bytes(data)
    source = LocalSource(tmp_path)
    (entry,) = await source.list()
    real = os.preadv
    calls: list[tuple[int, bool]] = []

    def preadv(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        here = threading.current_thread() is threading.main_thread()
        calls.append((flags, here))
        if flags and refusal is not None:
            raise OSError(refusal, os.strerror(refusal))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    for _ in range(2):
        memory = bytearray(len(data))
        await source.fill(entry, ByteRangeBuffer(0, memoryview(memory)))
        assert memory == data

    at_once = (os.RWF_NOWAIT, True)
    in_a_thread = (0, False)
    if refusal is None:
        assert calls == [at_once] * 2
    else:
        assert calls == [at_once, in_a_thread, *[at_once] * again, in_a_thread]


@pytest.mark.anyio
async def test_a_file_removed_after_listing_is_a_changed_source(tmp_path: Path) -> None:
    """A listed file that is gone is not reported as a location that never was."""
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    source = LocalSource(tmp_path)
    (entry,) = await source.list()
    path.unlink()

    with pytest.raises(SourceChangedError, match=r"model\.bin was removed"):
        await read(source, entry)


# --- sink


@pytest.mark.anyio
async def test_files_appear_when_they_are_committed(tmp_path: Path) -> None:
    """Until `commit` there is nothing under the final name, and after it nothing else."""
    sink = LocalSink(tmp_path / "out")
    await sink.prepare([entry_of("sub/model.bin")])
    file = await begin(sink, entry_of("sub/model.bin"))
    await write(file, CONTENT)
    before = tree(tmp_path / "out")
    await file.commit(manifest_of(CONTENT))

    assert before
    assert all(name.endswith(".incomplete") for name in before)
    assert tree(tmp_path / "out") == {"sub/model.bin": CONTENT}


@pytest.mark.anyio
@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
async def test_an_existing_file_is_replaced_at_once(tmp_path: Path, content: bytes) -> None:
    """A reader that has the old file open keeps it whole; the name has the new one."""
    make(tmp_path, "model.bin", "neighbour.txt", "sub/other.txt")
    sink = LocalSink(tmp_path)
    with (tmp_path / "model.bin").open("rb") as old:
        await put(sink, "model.bin", content)

        assert old.read() == b"model.bin"
    assert tree(tmp_path) == {
        "model.bin": content,
        "neighbour.txt": b"neighbour.txt",
        "sub/other.txt": b"sub/other.txt",
    }


@pytest.mark.anyio
async def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    """What a link in the destination points at (a cache's blob) stays as it is."""
    make(tmp_path, "blob")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.bin").symlink_to("../blob")
    await put(LocalSink(tmp_path / "out"), "model.bin")

    assert not (tmp_path / "out/model.bin").is_symlink()
    assert tree(tmp_path) == {"blob": b"blob", "out/model.bin": CONTENT}


@pytest.mark.anyio
async def test_a_single_file_gets_the_name_of_the_destination(tmp_path: Path) -> None:
    """With `single` the path is the file's, whatever it was called in the source."""
    sink = LocalSink(tmp_path / "deep/renamed.bin", single=True)
    await sink.prepare([entry_of("model.bin")])
    await put(sink, "model.bin")

    assert tree(tmp_path) == {"deep/renamed.bin": CONTENT}


@pytest.mark.anyio
async def test_an_aborted_file_is_resumed_by_the_next_sink(tmp_path: Path) -> None:
    """Journalled chunks are held for the same content and nothing else."""
    first = await begin(LocalSink(tmp_path), entry_of("model.bin"))
    await write(first, CONTENT, count=2)
    await first.abort(discard=False)
    chunks = plan_chunks(len(CONTENT), CHUNK)
    buffer = bytearray(CHUNK)

    changed = await begin(LocalSink(tmp_path), entry_of("model.bin", etag="v2"))
    assert dict(changed.resumable_chunks) == {}
    await changed.abort(discard=False)

    second = await begin(LocalSink(tmp_path), entry_of("model.bin"))
    assert set(second.resumable_chunks) == {0, 1}
    await second.read_into(chunks[1], memoryview(buffer))
    assert bytes(buffer) == CONTENT[CHUNK : 2 * CHUNK]
    assert second.resumable_chunks[1] == chunk_digest(memoryview(buffer))
    tail = memoryview(CONTENT)[chunks[2].start :]
    await second.write(chunks[2], tail, chunk_digest(tail))
    await second.commit(manifest_of(CONTENT))
    assert tree(tmp_path) == {"model.bin": CONTENT}


@pytest.mark.anyio
@pytest.mark.parametrize(("count", "discard"), [(0, False), (0, True), (2, True)])
async def test_an_abort_with_nothing_to_keep_leaves_nothing(
    tmp_path: Path, count: int, discard: bool
) -> None:
    """Without a journalled chunk, or when told to discard, both files are deleted."""
    file = await begin(LocalSink(tmp_path), entry_of("model.bin"))
    await write(file, CONTENT, count=count)
    await file.abort(discard=discard)

    assert tree(tmp_path) == {}


@pytest.mark.anyio
async def test_two_transfers_of_one_file_do_not_share_a_partial_file(tmp_path: Path) -> None:
    """While one works on a partial file, another takes its own; the last rename wins."""
    sink = LocalSink(tmp_path)
    first = await begin(sink, entry_of("model.bin"))
    second = await begin(sink, entry_of("model.bin"))
    await write(first, CONTENT)
    await write(second, CONTENT)
    await second.commit(manifest_of(CONTENT))
    await first.commit(manifest_of(CONTENT))

    assert tree(tmp_path) == {"model.bin": CONTENT}


@pytest.mark.anyio
async def test_finish_removes_partial_files_of_earlier_content(tmp_path: Path) -> None:
    """Left-overs of the files just moved go; those of others, and of a living transfer, stay."""
    sink = LocalSink(tmp_path)
    for name, etag in [("model.bin", "old"), ("other.bin", "old")]:
        stale = await begin(sink, entry_of(name, etag=etag))
        await write(stale, CONTENT, count=1)
        await stale.abort(discard=False)
    living = await begin(sink, entry_of("model.bin", etag="newer"))
    await write(living, CONTENT, count=1)
    await put(sink, "model.bin")
    await sink.finish(Manifest(source="test", files={"model.bin": manifest_of(CONTENT)}))

    left = [name for name in tree(tmp_path) if name != "model.bin"]
    assert len([name for name in left if name.startswith(".other.bin.")]) == 2
    assert len([name for name in left if name.startswith(".model.bin.")]) == 2
    await living.abort(discard=True)
    assert not [name for name in tree(tmp_path) if name.startswith(".model.bin.")]


@pytest.mark.anyio
async def test_a_hostile_path_is_refused(tmp_path: Path) -> None:
    """The sink itself lets no file out of its folder."""
    with pytest.raises(LocationError, match="stays inside"):
        await begin(LocalSink(tmp_path / "out"), entry_of("../x"))

    assert tree(tmp_path) == {}


@pytest.mark.anyio
async def test_a_folder_in_the_way_of_a_file_is_named(tmp_path: Path) -> None:
    """A folder is never replaced by a file."""
    make(tmp_path, "model.bin/inside")
    with pytest.raises(DestinationError, match=r"model\.bin: a folder of that name is in the way"):
        await begin(LocalSink(tmp_path), entry_of("model.bin"))

    assert tree(tmp_path) == {"model.bin/inside": b"model.bin/inside"}


@pytest.mark.anyio
async def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    """A file where the destination or a folder of it should be is an error, and stays."""
    make(tmp_path, "out", "folder/sub")
    with pytest.raises(DestinationError, match="out is a file"):
        await LocalSink(tmp_path / "out").prepare([entry_of("a")])
    with pytest.raises(DestinationError, match="out is a file"):
        await LocalSink(tmp_path / "out/deeper").prepare([entry_of("a")])
    with pytest.raises(DestinationError, match=r"cannot write .*sub"):
        await begin(LocalSink(tmp_path / "folder"), entry_of("sub/a"))

    assert tree(tmp_path) == {"out": b"out", "folder/sub": b"folder/sub"}


def test_a_disk_without_room_is_full_before_anything_is_written(tmp_path: Path) -> None:
    """More bytes than the file system has are refused with both numbers; no folder is made."""
    with pytest.raises(DiskFullError, match=rf"{1 << 62} bytes are needed, \d+ are free"):
        check_destination(tmp_path / "new", 1 << 62)

    assert not (tmp_path / "new").exists()


@pytest.mark.anyio
async def test_the_published_file_is_announced(tmp_path: Path) -> None:
    """`on_publish` runs after the file has its name, with the file's manifest."""
    target = tmp_path / "model.bin"
    seen: list[tuple[FileManifest, bytes]] = []
    file = await LocalFileSink.open(
        target,
        entry_of("model.bin"),
        CHUNK,
        partial_folder=tmp_path / "partials",
        on_publish=lambda manifest: seen.append((manifest, target.read_bytes())),
    )
    await write(file, CONTENT)
    assert all(name.startswith("partials/") for name in tree(tmp_path))
    await file.commit(manifest_of(CONTENT))

    assert seen == [(manifest_of(CONTENT), CONTENT)]
    assert tree(tmp_path) == {"model.bin": CONTENT}


# --- permissions


def without_privileges(folder: Path, program: str) -> str:
    """Run `program`, which knows `folder`, in a process of its own; return what it prints.

    Permissions do not bind root, so the process gives up its capabilities first (capset(2),
    version 3 of its header, for itself). For other users there is nothing to give up.
    """
    header = f"""
        import ctypes, struct
        from pathlib import Path
        import anyio
        from hftransfer._core.plan import Chunk
        from hftransfer._core.byte_range import ByteRangeBuffer
        from hftransfer.errors import TransferError
        from hftransfer.stores.base import Entry
        from hftransfer.stores.local.store import LocalSink, LocalSource
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


def test_a_file_that_may_not_be_read_is_an_access_error(tmp_path: Path) -> None:
    """Unreadable files and folders are named, with the reason."""
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


def test_a_folder_that_may_not_be_written_is_a_destination_error(tmp_path: Path) -> None:
    """It is found before any byte moves; a folder below it, only when its file is written."""
    make(tmp_path, "readonly/keep", "mixed/sub/keep")
    (tmp_path / "readonly").chmod(0o555)
    (tmp_path / "mixed").chmod(0o777)
    (tmp_path / "mixed/sub").chmod(0o555)
    printed = without_privileges(
        tmp_path,
        """
        entries = [Entry(path="sub/a", size=1)]
        async def main():
            for name in ("readonly", "readonly/new/deep"):
                try:
                    await LocalSink(folder / name).prepare(entries)
                except TransferError as error:
                    print(type(error).__name__, error)
            await LocalSink(folder / "mixed").prepare(entries)
            try:
                file = await LocalSink(folder / "mixed").begin(entries[0], 1000)
                await file.write(Chunk(0, 0, 1), memoryview(b"x"), "")
            except TransferError as error:
                print(type(error).__name__, error)
        anyio.run(main)
        """,
    )

    first, deeper, below = printed.splitlines()
    readonly = tmp_path / "readonly"
    assert first == f"DestinationError cannot write to {readonly}: {readonly} is not writable"
    assert deeper == (
        f"DestinationError cannot write to {readonly}/new/deep: {readonly} is not writable"
    )
    assert below == f"DestinationError cannot write {tmp_path}/mixed/sub/a: Permission denied"
    assert sorted(tree(tmp_path)) == ["mixed/sub/keep", "readonly/keep"]
