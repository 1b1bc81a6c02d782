"""`AsyncClient.copy` and `list`: local and memory locations, names, patterns, manifests."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from hftransfer import AsyncClient, TransferOptions
from hftransfer.errors import IntegrityError, LocationError, NotFoundError, OptionsError
from support.files import tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.json").write_bytes(b"{}")
    (folder / "sub" / "b.bin").write_bytes(os.urandom(200_000))
    return folder


pytestmark = pytest.mark.anyio


async def test_a_folder_is_copied_to_several_destinations(source: Path, tmp_path: Path) -> None:
    """Each destination gets the folder's files, not the folder itself; they are read once."""
    async with AsyncClient() as client:
        report = await client.copy(source, [tmp_path / "one", "memory://two"])
        two = client.memory("two").files

    assert tree(source) == tree(tmp_path / "one") == two
    assert (report.files, report.bytes) == (2, 200_002)


@pytest.mark.parametrize(
    ("destination", "expected"),
    [("new.bin", "new.bin"), ("folder/", "folder/b.bin"), ("existing", "existing/b.bin")],
)
async def test_a_single_file_is_copied_to_a_name_or_into_a_folder(
    source: Path, tmp_path: Path, destination: str, expected: str
) -> None:
    """As with ``cp``: a trailing slash or an existing folder means a file inside it."""
    target = tmp_path / "target"
    (target / "existing").mkdir(parents=True)

    async with AsyncClient() as client:
        await client.copy(source / "sub" / "b.bin", f"{target}/{destination}")

    assert [expected] == list(tree(target))


async def test_a_copy_replaces_only_files_of_the_same_name(source: Path, tmp_path: Path) -> None:
    """Files of the destination that the source does not have stay as they are."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "a.json").write_bytes(b"old")
    (target / "other.txt").write_bytes(b"other")

    async with AsyncClient() as client:
        await client.copy(source, target)

    assert {**tree(source), "other.txt": b"other"} == tree(target)


async def test_patterns_select_files(source: Path, tmp_path: Path) -> None:
    """Only paths that match `allow_patterns` and not `ignore_patterns` are copied."""
    async with AsyncClient() as client:
        await client.copy(source, tmp_path / "one", allow_patterns="*.json")
        await client.copy(source, tmp_path / "two", ignore_patterns=["sub/"])

    assert ["a.json"] == list(tree(tmp_path / "one")) == list(tree(tmp_path / "two"))


async def test_a_manifest_must_have_exactly_the_files(source: Path, tmp_path: Path) -> None:
    """A source with a file more or less than the manifest is refused before anything is written."""
    async with AsyncClient() as client:
        manifest = (await client.copy(source, tmp_path / "one")).manifest
        (source / "more").write_bytes(b"x")
        with pytest.raises(IntegrityError, match="not in the manifest, the first is 'more'"):
            await client.copy(source, tmp_path / "two", manifest=manifest)
        (source / "more").unlink()
        (source / "a.json").unlink()
        with pytest.raises(IntegrityError, match=r"missing, the first is 'a\.json'"):
            await client.copy(source, tmp_path / "two", manifest=manifest)

    assert not (tmp_path / "two").exists()


async def test_invalid_destinations_are_refused(source: Path) -> None:
    """The Hub is read-only, and there must be at least one destination."""
    async with AsyncClient() as client:
        with pytest.raises(LocationError, match="cannot be uploaded to the Hub"):
            await client.copy(source, "hf://org/model")
        with pytest.raises(OptionsError, match="at least one destination"):
            await client.copy(source, [])


async def test_list_returns_paths_and_sizes(source: Path) -> None:
    """`list` returns the files that `copy` would copy."""
    async with AsyncClient() as client:
        entries = await client.list(source)
        with pytest.raises(NotFoundError):
            await client.list(source / "nothing")

    assert [(e.path, e.size) for e in entries] == [("a.json", 2), ("sub/b.bin", 200_000)]


async def test_concurrent_copies_share_a_budget_of_two_chunks(source: Path, tmp_path: Path) -> None:
    """Four copies at once, with buffers for two chunks: all finish, none waits forever.

    That the memory stays within the budget is measured in scenarios/test_memory_and_fairness.py.
    """
    options = TransferOptions(chunk_size=65536, memory_budget=2 * 65536)
    async with AsyncClient(options) as client:
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(client.copy, source, tmp_path / str(number))
        assert client._context is not None
        pool = client._context.buffer_pool

    assert 65536 <= pool.peak_in_use <= 2 * 65536
    for number in range(4):
        assert tree(source) == tree(tmp_path / str(number))


async def test_a_client_that_is_not_open_says_so(source: Path, tmp_path: Path) -> None:
    """Before it is entered and after it has exited; its memory stores can be used at any time."""
    client = AsyncClient()
    client.memory("name")
    with pytest.raises(RuntimeError, match="the client is not open"):
        await client.copy(source, tmp_path / "out")

    async with client:
        assert client.buffers.budget > 0
    client.memory("name")
    with pytest.raises(RuntimeError, match="the client is not open"):
        await client.verify(source)
    assert not (tmp_path / "out").exists()
