"""`AsyncClient`: locations to stores, names of single files, patterns, several destinations."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from hftransfer import AsyncClient, TransferOptions
from hftransfer.errors import IntegrityError, LocationError, NotFoundError, OptionsError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.json").write_bytes(b"{}")
    (folder / "sub" / "b.bin").write_bytes(os.urandom(200_000))
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


pytestmark = pytest.mark.anyio


async def test_a_folder_goes_to_several_places_in_one_pass(source: Path, tmp_path: Path) -> None:
    """Content, not the folder itself, lands in every destination."""
    async with AsyncClient() as client:
        report = await client.copy(source, [tmp_path / "one", "memory://two"])
        two = client.memory("two").files

    assert _files(source) == _files(tmp_path / "one") == two
    assert (report.files, report.bytes) == (2, 200_002)


@pytest.mark.parametrize(
    ("destination", "expected"),
    [("new.bin", "new.bin"), ("folder/", "folder/b.bin"), ("there", "there/b.bin")],
)
async def test_a_single_file_takes_the_destinations_name_unless_it_is_a_folder(
    source: Path, tmp_path: Path, destination: str, expected: str
) -> None:
    """As with cp: a trailing slash or an existing folder means inside."""
    target = tmp_path / "target"
    (target / "there").mkdir(parents=True)

    async with AsyncClient() as client:
        await client.copy(source / "sub" / "b.bin", f"{target}/{destination}")

    assert [expected] == list(_files(target))


async def test_existing_files_are_replaced_and_others_left_alone(
    source: Path, tmp_path: Path
) -> None:
    """Copying into a folder touches only the files of the source."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "a.json").write_bytes(b"old")
    (target / "mine.txt").write_bytes(b"mine")

    async with AsyncClient() as client:
        await client.copy(source, target)

    assert {**_files(source), "mine.txt": b"mine"} == _files(target)


async def test_patterns_choose_files(source: Path, tmp_path: Path) -> None:
    """Only matching paths are moved."""
    async with AsyncClient() as client:
        await client.copy(source, tmp_path / "one", allow_patterns="*.json")
        await client.copy(source, tmp_path / "two", ignore_patterns=["sub/"])

    assert ["a.json"] == list(_files(tmp_path / "one")) == list(_files(tmp_path / "two"))


async def test_a_manifest_names_missing_and_unknown_files(source: Path, tmp_path: Path) -> None:
    """A copy by a manifest is the whole of it and nothing else."""
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


async def test_bad_destinations_are_refused_before_anything_is_read(source: Path) -> None:
    """The Hub cannot be written to, and there must be somewhere to go."""
    async with AsyncClient() as client:
        with pytest.raises(LocationError, match="cannot be uploaded to the Hub"):
            await client.copy(source, "hf://org/model")
        with pytest.raises(OptionsError, match="at least one destination"):
            await client.copy(source, [])


async def test_listing_gives_paths_and_sizes(source: Path) -> None:
    """`list` is what `copy` would move."""
    async with AsyncClient() as client:
        entries = await client.list(source)
        with pytest.raises(NotFoundError):
            await client.list(source / "nothing")

    assert [(e.path, e.size) for e in entries] == [("a.json", 2), ("sub/b.bin", 200_000)]


async def test_memory_stays_within_the_budget_of_all_transfers(
    source: Path, tmp_path: Path
) -> None:
    """Transfers that run at once share one pool."""
    options = TransferOptions(chunk_size=65536, memory_budget=2 * 65536)
    async with AsyncClient(options) as client, anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(client.copy, source, tmp_path / str(number))

    for number in range(4):
        assert _files(source) == _files(tmp_path / str(number))
