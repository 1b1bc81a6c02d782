"""Copies into their own source: they end, copy each file once, and do not touch the source."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from hftransfer import AsyncClient, Client, S3Options, TransferOptions
from hftransfer._client.overlap import outside_of, roots_in_source
from hftransfer.errors import DestinationError, LocationError
from hftransfer.locations import parse_location
from hftransfer.stores.base import Entry, ListingPage
from support.files import make_tree, tree
from support.s3 import Bucket

OPTIONS = TransferOptions(chunk_size=64 * 1024, connections=4)


@pytest.mark.parametrize(
    ("source", "destination", "root"),
    [
        ("s3://bucket/x", "s3://bucket/x/y", "y/"),
        ("s3://bucket/x/", "s3://bucket/x/y/z/", "y/z/"),
        ("s3://bucket", "s3://bucket/x", "x/"),
        ("s3://bucket/x", "s3://bucket/x", ""),
        ("s3://bucket/x", "s3://bucket/xy", ""),
        ("s3://bucket/x/y", "s3://bucket/x", ""),
        ("s3://bucket/x", "s3://other/x/y", ""),
        ("/a", "/a/b", "b/"),
        ("/a/../a/b", "/a/b/c/../d", "d/"),
        ("/", "/a", "a/"),
        ("/a", "/ab", ""),
        ("/a", "s3://bucket/a/b", ""),
        ("hf://org/model", "/a", ""),
    ],
)
def test_destinations_in_the_source_are_found(source: str, destination: str, root: str) -> None:
    found = roots_in_source(parse_location(source), [parse_location(destination)])
    assert found == ([root] if root else [])


def test_links_to_folders_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    source, destination = map(parse_location, (tmp_path / "in", tmp_path / "link/x"))
    assert roots_in_source(source, [destination]) == ["x/"]


@pytest.mark.asyncio
async def test_files_below_the_roots_are_left_out() -> None:
    async def pages() -> AsyncGenerator[ListingPage, None]:
        yield ListingPage([Entry(path=path, size=0) for path in ("a", "b", "b-", "b/c")], False)
        yield ListingPage([Entry(path="b/d/e", size=0)], True)

    left = [page async for page in outside_of(["b/"], pages())]
    assert [[entry.path for entry in page.entries] for page in left] == [["a", "b", "b-"], []]
    assert [page.is_last for page in left] == [False, True]


def test_a_folder_is_copied_into_itself_once(tmp_path: Path) -> None:
    """Also the second time, when the copy is there and listed."""
    root = make_tree(tmp_path / "in")
    files = tree(root)
    with Client(OPTIONS) as client:
        for _ in range(2):
            assert client.copy(root, root / "sub/copy").files == 3
            assert tree(root / "sub/copy") == files


@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
@pytest.mark.asyncio
async def test_a_prefix_is_copied_into_itself_once(bucket: Bucket, tmp_path: Path) -> None:
    options = replace(OPTIONS, s3=S3Options(endpoint_url=bucket.server.endpoint))
    async with AsyncClient(options) as client:
        await client.copy(make_tree(tmp_path / "in"), f"{bucket.url}/m")
        for _ in range(2):
            report = await client.copy(f"{bucket.url}/m", f"{bucket.url}/m/copy")
            assert report.files + report.skipped == 3
        assert len(await client.list(f"{bucket.url}/m")) == 6


def test_a_local_copy_onto_itself_is_refused(tmp_path: Path) -> None:
    """A file or a folder: links in it would be replaced by what they lead to."""
    root = make_tree(tmp_path / "in")
    (root / "link").symlink_to("a.bin")
    (tmp_path / "same").symlink_to("in")
    with Client(OPTIONS) as client:
        cases: list[tuple[Path, str | Path]] = [
            (root, root),
            (root, tmp_path / "same"),
            (root / "link", root / "link"),
            (root / "link", f"{root}/"),
            (root / "a.bin", tmp_path / "same"),
        ]
        for source, destination in cases:
            with pytest.raises(LocationError, match="are the same"):
                client.copy(source, destination)
        assert (root / "link").is_symlink()
        client.copy(root / "a.bin", root / "link")
    assert not (root / "link").is_symlink()
    assert (root / "link").read_bytes() == (root / "a.bin").read_bytes()


@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
@pytest.mark.asyncio
async def test_a_destination_that_cannot_be_looked_up_is_an_error_of_ours(
    bucket: Bucket, tmp_path: Path
) -> None:
    """A name longer than any file system allows, as the destination of one file."""
    options = replace(OPTIONS, s3=S3Options(endpoint_url=bucket.server.endpoint))
    make_tree(tmp_path / "in")
    async with AsyncClient(options) as client:
        await client.copy(tmp_path / "in/a.bin", f"{bucket.url}/a.bin")
        for source in (f"{bucket.url}/a.bin", tmp_path / "in/a.bin"):
            with pytest.raises(DestinationError, match="File name too long"):
                await client.copy(source, tmp_path / ("x" * 300))
