"""Local files that change while their size and modification time stay, and copies of equal ones."""

from __future__ import annotations

import mmap
import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from hftransfer import AsyncClient, S3Options, TransferOptions
from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import chunk_digest
from hftransfer._core.plan import plan_chunks
from hftransfer._io.file_version import VersionGuard
from hftransfer.report import Report
from hftransfer.stores.local.sink import LocalSink
from hftransfer.stores.local.source import LocalSource
from support.files import tree
from support.s3 import Bucket, get_object, numbered_bytes, put_object
from support.s3_proxy import proxy_for

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
PART = 5 * MIB


class Copies:
    """Copies to a bucket through a proxy that counts the requests of each copy, by method."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._endpoint = ""
        self.requests: Counter[str] = Counter()
        """Of the last copy."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Copies]:
        async with proxy_for(self._bucket, self._count) as self._endpoint:
            yield self

    async def _count(self, request: web.Request) -> web.StreamResponse | None:
        self.requests[request.method] += 1
        return None

    async def run(self, source: Path, key: str, *, chunk_size: int = PART, **s3: str) -> Report:
        """Copy `source` to `key` with a new client."""
        self.requests = Counter()
        options = TransferOptions(
            chunk_size=chunk_size,
            connections=4,
            s3=S3Options(endpoint_url=self._endpoint, **s3),  # type: ignore[arg-type]
        )
        async with AsyncClient(options) as client:
            return await client.copy(source, f"{self._bucket.url}/{key}")


@pytest_asyncio.fixture
async def copies(bucket: Bucket) -> AsyncIterator[Copies]:
    async with Copies(bucket).open() as opened:
        yield opened


def checkout(archive: Path, folder: Path) -> None:
    """Unpack `archive` into `folder`; files that are there keep their inodes.

    All modification times are those of the archive.
    """
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "--overwrite", "-xf", archive, "-C", folder], check=True)


def archive_of(folder: Path, name: str, contents: dict[str, bytes]) -> Path:
    """Return an archive of files whose modification time is 0."""
    staging = folder / f"staging-{name}"
    staging.mkdir()
    for path, content in contents.items():
        (staging / path).write_bytes(content)
    archive = folder / f"{name}.tar"
    subprocess.run(
        ["tar", "--sort=name", "--mtime=@0", "-cf", archive, "-C", staging, *contents], check=True
    )
    return archive


@pytest.mark.parametrize("s3_server", ["minio", "seaweedfs", "rclone", "moto"], indirect=True)
async def test_another_version_of_a_checkout_is_uploaded(
    copies: Copies, bucket: Bucket, tmp_path: Path
) -> None:
    """Unpacking an archive sets the times and can reuse inodes: the content tells v1 from v2."""
    v1 = archive_of(tmp_path, "v1", {"a": b"version 1", "b": b"common", "c": b"1" * 3000})
    v2 = archive_of(tmp_path, "v2", {"a": b"version 2", "b": b"common", "c": b"2" * 3000})
    folder = tmp_path / "m"
    checkout(v1, folder)
    await copies.run(folder, "x")
    checkout(v2, folder)
    report = await copies.run(folder, "x")

    assert get_object(bucket, "x/a") == b"version 2"
    assert get_object(bucket, "x/c") == b"2" * 3000
    assert (report.files, report.skipped) == (2, 1)


@pytest.mark.parametrize("s3_server", ["minio", "seaweedfs", "rclone", "moto"], indirect=True)
async def test_a_new_checkout_of_equal_files_is_not_sent(
    copies: Copies, bucket: Bucket, tmp_path: Path
) -> None:
    """New inodes and times of the same bytes, small or in parts, cost one HEAD and a read each."""
    contents = {"small": b"small", "empty": b"", "large": numbered_bytes(2 * PART + 7)}
    archive = archive_of(tmp_path, "v", contents)
    for folder in ("one", "two"):
        checkout(archive, tmp_path / folder)
    (tmp_path / "two" / "small").touch()
    await copies.run(tmp_path / "one", "x")
    report = await copies.run(tmp_path / "two", "x")

    assert (report.files, report.skipped, report.bytes) == (0, 3, 0)
    assert copies.requests["PUT"] == copies.requests["POST"] == 0
    assert copies.requests["HEAD"] == 3


async def test_equal_files_of_another_chunk_size_are_not_sent(
    copies: Copies, bucket: Bucket, tmp_path: Path
) -> None:
    """The parts that are hashed are those that the object was uploaded in."""
    (tmp_path / "large").write_bytes(numbered_bytes(17 * MIB))
    await copies.run(tmp_path / "large", "x/large")
    report = await copies.run(tmp_path / "large", "x/large", chunk_size=8 * MIB)

    assert (report.files, report.skipped) == (0, 1)


async def test_one_changed_byte_of_a_large_file_is_uploaded(
    copies: Copies, bucket: Bucket, tmp_path: Path
) -> None:
    """A multipart object is compared part by part with the file."""
    path = tmp_path / "large"
    path.write_bytes(numbered_bytes(3 * PART))
    await copies.run(path, "large")
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(2 * PART + 5)
        file.write(b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = await copies.run(path, "large")

    assert report.files == 1
    assert get_object(bucket, "large")[2 * PART + 5 :][:1] == b"!"


def _write_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"B")


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"B" + path.read_bytes()[1:])
    os.replace(other, path)


def _write_mapping(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[:1] = b"B"
        mapping.flush()


@pytest.mark.parametrize("change", [_write_in_place, _replace, _write_mapping])
async def test_a_recorded_file_that_was_changed_is_uploaded(
    copies: Copies,
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
) -> None:
    """A record holds for one change time: a program can restore the modification time only."""
    _record_at_once(monkeypatch)
    path = tmp_path / "in" / "f"
    path.parent.mkdir()
    path.write_bytes(b"A" * 1000)
    status = path.stat()
    await copies.run(path.parent, "x")
    change(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = await copies.run(path.parent, "x")

    assert report.files == 1
    assert get_object(bucket, "x/f") == b"B" + b"A" * 999


def _record_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record files that have just been written, on any file system."""
    guard = VersionGuard(untracked=(), rest_ns=0)
    monkeypatch.setattr(VersionGuard, "now", classmethod(lambda cls: guard))


async def test_a_recorded_file_costs_neither_a_request_nor_a_read(
    copies: Copies, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run of the same files on the same machine costs the listing."""
    _record_at_once(monkeypatch)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}").write_bytes(b"%d" % number)
    (folder / "large").write_bytes(numbered_bytes(2 * PART))
    await copies.run(folder, "x")
    monkeypatch.setattr("hftransfer.stores.local.source.open_for_reading", _must_not_read)
    report = await copies.run(folder, "x")

    assert (report.files, report.skipped) == (0, 31)
    assert copies.requests == {"GET": 1}


def _must_not_read(path: str) -> int:
    raise AssertionError(f"{path} was read")


async def test_a_compared_file_is_recorded(
    copies: Copies, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was found equal by its content needs no comparison in the next run."""
    path = tmp_path / "f"
    path.write_bytes(b"content")
    await copies.run(path, "x/f")
    _record_at_once(monkeypatch)
    await copies.run(path, "x/f")
    heads = copies.requests["HEAD"]
    report = await copies.run(path, "x/f")

    assert (heads, copies.requests["HEAD"], report.skipped) == (1, 0, 1)


async def test_a_record_does_not_outlive_the_object(
    copies: Copies, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object that another program replaced, by one of the same size, is uploaded again."""
    _record_at_once(monkeypatch)
    path = tmp_path / "f"
    path.write_bytes(b"ours")
    await copies.run(path, "x/f")
    put_object(bucket, "x/f", b"else", Metadata=_metadata(bucket, "x/f"))
    report = await copies.run(path, "x/f")

    assert report.files == 1
    assert get_object(bucket, "x/f") == b"ours"


def _metadata(bucket: Bucket, key: str) -> dict[str, str]:
    from support.s3 import s3_client

    found: dict[str, str] = s3_client(bucket.server).head_object(Bucket=bucket.name, Key=key)[
        "Metadata"
    ]
    return found


async def test_records_are_not_made_of_files_that_may_change_unnoticed(
    copies: Copies, bucket: Bucket, tmp_path: Path
) -> None:
    """A file that was written a moment ago is compared in the next run, too."""
    path = tmp_path / "f"
    path.write_bytes(b"content")
    for _ in range(2):
        await copies.run(path, "x/f")
    report = await copies.run(path, "x/f")

    assert (report.skipped, copies.requests["HEAD"]) == (1, 1)


async def test_without_a_state_folder_files_are_compared(
    copies: Copies, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container without a home has no records, and equal files are not sent there either."""
    _record_at_once(monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/state")
    path = tmp_path / "f"
    path.write_bytes(b"content")
    await copies.run(path, "x/f")
    report = await copies.run(path, "x/f")

    assert (report.skipped, copies.requests["HEAD"], copies.requests["PUT"]) == (1, 1, 0)


async def test_a_demanded_storage_class_is_not_skipped(
    copies: Copies, bucket: Bucket, tmp_path: Path
) -> None:
    """The object may be stored in another way than the options demand, so it is sent."""
    path = tmp_path / "f"
    path.write_bytes(b"content")
    await copies.run(path, "x/f")
    report = await copies.run(path, "x/f", storage_class="STANDARD")

    assert report.files == 1


async def interrupt(source: Path, target: Path) -> None:
    """Leave what a killed copy of `source` leaves behind: a partial file with two chunks."""
    origin = LocalSource(source)
    (entry,) = await origin.list()
    file = await LocalSink(target, single=True).begin(entry, MIB)
    assert file is not None
    for chunk in plan_chunks(entry.size, MIB)[:2]:
        buffer = bytearray(chunk.size)
        await origin.fill(entry, ByteRangeBuffer(chunk.start, memoryview(buffer)))
        await file.write(chunk, memoryview(buffer), chunk_digest(memoryview(buffer)))
    await file.abort(discard=False)


@pytest.mark.parametrize("change", [None, _write_in_place, _replace, _write_mapping])
async def test_an_interrupted_local_copy_is_resumed_for_the_same_content_only(
    tmp_path: Path, change: Callable[[Path], None] | None
) -> None:
    """Chunks of the content before a change are never mixed with those after it."""
    source, target = tmp_path / "model.bin", tmp_path / "out.bin"
    source.write_bytes(numbered_bytes(4 * MIB))
    status = source.stat()
    await interrupt(source, target)
    if change is not None:
        change(source)
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    async with AsyncClient(TransferOptions(chunk_size=MIB)) as client:
        report = await client.copy(source, target)

    assert target.read_bytes() == source.read_bytes()
    assert report.reused_bytes == (2 * MIB if change is None else 0)
    assert set(tree(tmp_path)) == {"model.bin", "out.bin"}
