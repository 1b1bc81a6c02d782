"""Many files: the listing, the number of tasks and the memory stay bounded, in all directions."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hftransfer import AsyncClient, TransferOptions
from hftransfer._core.checksums import upload_checksums
from hftransfer._core.events import Event, ListingProgress, TransferStarted
from hftransfer.errors import DiskFullError, LocationError, NotFoundError
from hftransfer.testing.scale import ScaleServer

pytestmark = pytest.mark.asyncio

_FILES = 3000
_CONTENT_KINDS = ("get", "put", "copy")
_LISTING_KINDS = ("list", "tree")


@pytest.fixture
def server() -> Iterator[ScaleServer]:
    with ScaleServer(files=_FILES, size=20) as running:
        yield running


def _options(server: ScaleServer) -> TransferOptions:
    return TransferOptions(s3=server.s3_options(), hub=server.hub_options())


class _Watch:
    """An observer that counts tasks, and keeps the events about the listing."""

    def __init__(self) -> None:
        self.tasks = 0
        self.listing: list[TransferStarted | ListingProgress] = []

    def __call__(self, event: Event, /) -> None:
        self.tasks = max(self.tasks, len(asyncio.all_tasks()))
        if isinstance(event, TransferStarted | ListingProgress):
            self.listing.append(event)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("s3://scale/", "s3://other/copy"),
        ("s3://scale/", "memory://copy"),
        ("hf://acme/scale", "s3://other/copy"),
        ("hf://acme/scale", "memory://copy"),
    ],
)
async def test_the_first_byte_moves_after_two_pages_at_most(
    server: ScaleServer, source: str, destination: str
) -> None:
    """Of the source; one more page tells what the destination has. HEADs do not come first."""
    watch = _Watch()
    async with AsyncClient(_options(server), observer=watch) as client:
        report = await client.copy(source, destination)

    assert report.files == _FILES
    first = next(index for index, kind in enumerate(server.kinds) if kind in _CONTENT_KINDS)
    before = server.kinds[:first]
    pages = sum(kind in _LISTING_KINDS for kind in before)
    assert pages - destination.startswith("s3://") <= 2
    assert before.count("head") <= 32
    assert watch.tasks <= 48


async def test_verify_reads_while_it_lists(server: ScaleServer) -> None:
    """One page, one look for a sidecar and one further page precede the first byte."""
    watch = _Watch()
    async with AsyncClient(_options(server), observer=watch) as client:
        found = await client.verify(server.url)

    assert (found.files, found.ok) == (_FILES, True)
    assert server.kinds[: server.kinds.index("get")].count("list") <= 3
    assert watch.tasks <= 48


async def test_the_totals_grow_while_the_source_is_listed(server: ScaleServer) -> None:
    """The first event has those of the first page, the last one says that it is complete."""
    watch = _Watch()
    async with AsyncClient(_options(server), observer=watch) as client:
        await client.copy(server.url, "memory://copy")

    assert watch.listing == [
        TransferStarted(1000, 20_000, is_complete=False),
        ListingProgress(2000, 40_000, is_complete=False),
        ListingProgress(3000, 60_000, is_complete=True),
    ]


async def test_a_local_folder_is_uploaded_by_pages(server: ScaleServer, tmp_path: Path) -> None:
    """And a manifest of all files comes out of it."""
    for index in range(1500):
        (tmp_path / f"{index:04d}").write_bytes(b"x")
    async with AsyncClient(_options(server)) as client:
        report = await client.copy(tmp_path, "s3://other/copy")

    assert report.files == len(report.manifest.files) == 1500
    assert report.manifest.files["1499"].size == 1


@pytest.mark.parametrize("folder", [True, False])
async def test_a_long_sidecar_is_written_and_read_through_a_temporary_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: ScaleServer, folder: bool
) -> None:
    """Its text is the same, no temporary file is left, and verify finds what is missing."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    target = tmp_path / "out"
    async with AsyncClient(_options(server)) as client:
        report = await client.copy(f"{server.url}data/0000", target, sidecar=True)
        expected = (target / ".hftransfer").read_bytes()
        (target / ".hftransfer").unlink()
        monkeypatch.setattr("hftransfer._client.sidecar._MAX_IN_MEMORY", 1000)
        source = target if folder else target / "0000000.bin"
        copied = tmp_path / "copied"
        await client.copy(source, copied if folder else copied / "0000000.bin", sidecar=True)
        found = await client.verify(copied if folder else copied / "0000000.bin")

    assert report.files == 1000
    assert (found.ok, found.files) == (True, 1000 if folder else 1)
    if folder:
        written = json.loads((copied / ".hftransfer").read_bytes())
        assert written["files"].keys() == json.loads(expected)["files"].keys()
    assert not list((tmp_path / "temporary").iterdir())


async def test_a_store_without_checksums_gets_the_first_object_only_again(
    server: ScaleServer, tmp_path: Path
) -> None:
    """Once with each checksum that it turns out to ignore, not once per object."""
    for index in range(20):
        (tmp_path / f"{index}").write_bytes(b"x")
    async with AsyncClient(_options(server)) as client:
        await client.copy(tmp_path, "s3://other/copy")

    assert server.counts["put"] <= 20 + len(upload_checksums())


async def test_a_listing_is_given_by_pages(server: ScaleServer) -> None:
    """`AsyncClient.pages` requests the next page when it is asked for."""
    async with AsyncClient(_options(server)) as client:
        pages = client.pages(server.url)
        first = await anext(pages)
        assert server.counts["list"] == 1
        others = [entry async for page in pages for entry in page]
        assert [*first, *others] == await client.list(server.url)

    assert len(others) == 2000


async def test_patterns_that_select_nothing_need_no_whole_listing_in_memory(
    server: ScaleServer,
) -> None:
    """Pages without a selected file are passed; those that follow are found."""
    async with AsyncClient(_options(server)) as client:
        nothing = await client.copy(server.url, "memory://a", allow_patterns="*.txt")
        last = await client.copy(server.url, "memory://b", allow_patterns=f"*{_FILES - 1:07d}.bin")
        with pytest.raises(NotFoundError):
            await client.copy(f"{server.url}absent", "memory://c")

    assert (nothing.files, last.files) == (0, 1)


async def test_space_is_checked_as_the_totals_grow(
    monkeypatch: pytest.MonkeyPatch, server: ScaleServer, tmp_path: Path
) -> None:
    """The page with which the files no longer fit is an error, before one of its files moves."""
    real = os.statvfs(tmp_path)
    blocks = (
        50_000 // real.f_frsize
    )  # 45,056 bytes with blocks of 4 KiB: between two and three pages
    fields = list(real)
    fields[4] = blocks

    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
    async with AsyncClient(_options(server)) as client:
        with pytest.raises(DiskFullError, match="60000 bytes are needed"):
            await client.copy(server.url, tmp_path / "out")

    assert sum(1 for path in (tmp_path / "out").rglob("*.bin")) <= 2000


async def test_a_file_that_would_have_to_be_a_folder_is_refused(tmp_path: Path) -> None:
    """Both names are in the error; a destination without folders takes both."""
    async with AsyncClient() as client:
        client.memory("odd").files.update({"a": b"1", "a-b": b"2", "a/c": b"3"})
        with pytest.raises(LocationError, match="'a/c' is below 'a', which is a file"):
            await client.copy("memory://odd", tmp_path / "out")
        assert (await client.copy("memory://odd", "memory://even")).files == 3

    assert not (tmp_path / "out").exists()


_MEASURE = """
import asyncio, re, sys
from hftransfer import AsyncClient

async def main():
    async with AsyncClient() as client:
        if sys.argv[2] == "verify":
            result = await client.verify(sys.argv[1])
        else:
            result = await client.copy(sys.argv[1], sys.argv[2])
        # Not `ru_maxrss`, which begins with the memory of the process that started this one.
        peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
        print(result.files, peak[1])

asyncio.run(main())
"""


def _peak_memory(files: int, source: str, destination: str) -> int:
    """Return the peak RSS, in bytes, of a process that moves `files` files."""
    with ScaleServer(files=files, size=20) as server:
        finished = subprocess.run(
            [sys.executable, "-c", _MEASURE, source, destination],
            env={**os.environ, **server.environ()},
            capture_output=True,
            text=True,
            check=True,
        )
    moved, kilobytes = map(int, finished.stdout.split())
    assert moved == files
    return kilobytes * 1024


@pytest.mark.extended
@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("s3://scale/", "s3://other/copy"),
        ("s3://scale/", "verify"),
        ("hf://acme/scale", "s3://other/copy"),
    ],
)
async def test_memory_does_not_depend_on_the_number_of_files(source: str, destination: str) -> None:
    """Four times as many take less than 20 MB more (the records of a manifest, before they go to
    the disk, have 8 MB, and the check for equal paths 22 bytes each), far below 150 MB in all."""
    few = await asyncio.to_thread(_peak_memory, 25_000, source, destination)
    many = await asyncio.to_thread(_peak_memory, 100_000, source, destination)

    assert many - few < 20_000_000
    assert many < 100_000_000
