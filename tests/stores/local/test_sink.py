"""`hftransfer.stores.local.sink`: final names, partial files, resuming, destination checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from hftransfer._core.digests import chunk_digest
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.plan import plan_chunks
from hftransfer.errors import (
    DestinationError,
    LocationError,
)
from hftransfer.stores.local.sink import LocalFileSink, LocalSink
from support.files import tree
from support.local_files import (
    CHUNK,
    CONTENT,
    begin,
    entry_of,
    make,
    without_privileges,
    write,
)


def manifest_of(content: bytes) -> FileManifest:
    view = memoryview(content)
    chunks = plan_chunks(len(content), CHUNK)
    digests = tuple(chunk_digest(view[chunk.start : chunk.stop]) for chunk in chunks)
    return FileManifest(size=len(content), chunk_size=CHUNK, chunks=digests)


async def put(sink: LocalSink, path: str, content: bytes = CONTENT, etag: str = "v1") -> None:
    file = await begin(sink, entry_of(path, content, etag))
    await write(file, content)
    await file.commit(manifest_of(content))


@pytest.mark.anyio
async def test_a_file_has_its_final_name_only_after_commit(tmp_path: Path) -> None:
    """Before `commit` only partial files exist, and after it only the file."""
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
async def test_an_existing_file_is_replaced_atomically(tmp_path: Path, content: bytes) -> None:
    """A reader that has the old file open can still read all of it."""
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
async def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    """The target of a link in the destination, such as a blob of a cache, is not modified."""
    make(tmp_path, "blob")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.bin").symlink_to("../blob")
    await put(LocalSink(tmp_path / "out"), "model.bin")

    assert not (tmp_path / "out/model.bin").is_symlink()
    assert tree(tmp_path) == {"blob": b"blob", "out/model.bin": CONTENT}


@pytest.mark.anyio
async def test_single_names_the_file_after_the_destination(tmp_path: Path) -> None:
    """With `single` the path is the file's name, whatever the source calls it."""
    sink = LocalSink(tmp_path / "deep/renamed.bin", single=True)
    await sink.prepare([entry_of("model.bin")])
    await put(sink, "model.bin")

    assert tree(tmp_path) == {"deep/renamed.bin": CONTENT}


@pytest.mark.anyio
async def test_an_aborted_file_is_resumed_by_the_next_sink(tmp_path: Path) -> None:
    """Chunks in the journal are resumable for the same content only."""
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
async def test_abort_without_resumable_chunks_leaves_no_file(
    tmp_path: Path, count: int, discard: bool
) -> None:
    """With an empty journal, or with `discard`, partial file and journal are deleted."""
    file = await begin(LocalSink(tmp_path), entry_of("model.bin"))
    await write(file, CONTENT, count=count)
    await file.abort(discard=discard)

    assert tree(tmp_path) == {}


@pytest.mark.anyio
async def test_two_transfers_of_one_file_do_not_share_a_partial_file(tmp_path: Path) -> None:
    """A second transfer opens a partial file of its own; the last rename wins."""
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
    """Those of files that were prepared are removed, unless a transfer still has them open."""
    sink = LocalSink(tmp_path)
    for name, etag in [("model.bin", "old"), ("other.bin", "old")]:
        stale = await begin(sink, entry_of(name, etag=etag))
        await write(stale, CONTENT, count=1)
        await stale.abort(discard=False)
    active = await begin(sink, entry_of("model.bin", etag="newer"))
    await write(active, CONTENT, count=1)
    await sink.prepare([entry_of("model.bin")])
    await put(sink, "model.bin")
    await sink.finish(Manifest(source="test", files={"model.bin": manifest_of(CONTENT)}))

    left = [name for name in tree(tmp_path) if name != "model.bin"]
    assert len([name for name in left if name.startswith(".other.bin.")]) == 2
    assert len([name for name in left if name.startswith(".model.bin.")]) == 2
    await active.abort(discard=True)
    assert not [name for name in tree(tmp_path) if name.startswith(".model.bin.")]


@pytest.mark.anyio
async def test_a_path_outside_the_folder_is_rejected(tmp_path: Path) -> None:
    """The sink itself checks paths, whatever the source lists."""
    with pytest.raises(LocationError, match="stays inside"):
        await begin(LocalSink(tmp_path / "out"), entry_of("../x"))

    assert tree(tmp_path) == {}


@pytest.mark.anyio
async def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """The error names the folder that has the file's name."""
    make(tmp_path, "model.bin/inside")
    with pytest.raises(DestinationError, match=r"model\.bin: a folder of that name is in the way"):
        await begin(LocalSink(tmp_path), entry_of("model.bin"))

    assert tree(tmp_path) == {"model.bin/inside": b"model.bin/inside"}


@pytest.mark.anyio
async def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    """A file at the path of the destination, or of a folder above it, is an error and stays."""
    make(tmp_path, "out", "folder/sub")
    with pytest.raises(DestinationError, match="out is a file"):
        await LocalSink(tmp_path / "out").prepare([entry_of("a")])
    with pytest.raises(DestinationError, match="out is a file"):
        await LocalSink(tmp_path / "out/deeper").prepare([entry_of("a")])
    with pytest.raises(DestinationError, match=r"cannot write .*sub"):
        await begin(LocalSink(tmp_path / "folder"), entry_of("sub/a"))

    assert tree(tmp_path) == {"out": b"out", "folder/sub": b"folder/sub"}


@pytest.mark.anyio
async def test_on_publish_runs_after_the_rename(tmp_path: Path) -> None:
    """It is called once, with the file's manifest, when the file has its final name."""
    target = tmp_path / "model.bin"
    seen: list[tuple[FileManifest, bytes]] = []
    file = await LocalFileSink.open(
        target,
        entry_of("model.bin"),
        CHUNK,
        create_folders=(tmp_path / "partials").mkdir,
        partial_folder=tmp_path / "partials",
        on_publish=lambda manifest: seen.append((manifest, target.read_bytes())),
    )
    await write(file, CONTENT)
    before = tree(tmp_path)
    assert before
    assert all(name.startswith("partials/") for name in before)
    await file.commit(manifest_of(CONTENT))

    assert seen == [(manifest_of(CONTENT), CONTENT)]
    assert tree(tmp_path) == {"model.bin": CONTENT}


def test_a_folder_without_write_permission_is_a_destination_error(tmp_path: Path) -> None:
    """`prepare` checks the destination; a folder below it is checked when its file is written."""
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
