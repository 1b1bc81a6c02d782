"""`hftransfer.stores.local.listing`: what is no regular file is listed as such, not opened."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._io.file_version import FileVersion
from hftransfer.errors import NotFoundError, SourceChangedError, UnsupportedError
from hftransfer.stores.base import Entry
from hftransfer.stores.local import listing
from hftransfer.stores.local.listing import FileListing, special_kind
from hftransfer.stores.local.source import LocalSource
from support.local_files import CONTENT, make


def _list_files(path: Path) -> tuple[bool, Sequence[Entry]]:
    """Return whether `path` is a file, and the whole listing."""
    found = FileListing(path)
    return found.single, found.next_page(1000)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file and one of each kind that a user can make."""
    make(tmp_path, "file")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "null").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(tmp_path)  # the path of a socket has at most 107 bytes
        try:
            bound.bind("socket")
        finally:
            os.chdir(here)
        yield tmp_path


_SHORT_FILES = [*Path("/sys/kernel").glob("uevent_seqnum")]
KINDS = {
    "broken": "a link that leads nowhere",
    "fifo": "a FIFO",
    "file": "",
    "loop": "a link that leads nowhere",
    "null": "a character device",
    "socket": "a socket",
}


def test_a_folder_lists_what_cannot_be_copied(folder: Path) -> None:
    """So that patterns can exclude it. Nothing blocks, although nobody writes to the FIFO."""
    _, entries = _list_files(folder)
    assert {entry.path: entry.unreadable for entry in entries} == KINDS


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind])
def test_a_location_that_cannot_be_copied_is_an_error(folder: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"{name} is {KINDS[name]}"):
        _list_files(folder / name)


def test_every_kind_has_a_name() -> None:
    """Block devices cannot be made by every user."""
    assert special_kind(stat.S_IFBLK | 0o600) == "a block device"
    assert special_kind(0) == "neither a file nor a folder"
    assert special_kind(stat.S_IFREG) == special_kind(stat.S_IFDIR) == ""


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="Linux only")
@pytest.mark.parametrize("path", ["/proc/version", "/proc/self/maps", "/proc/self/cmdline"])
def test_a_file_without_a_size_is_not_empty(path: str) -> None:
    """It reports 0 bytes; one byte is read to find out."""
    with pytest.raises(UnsupportedError, match="has the size 0 and some content"):
        _list_files(Path(path))


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    single, (entry,) = _list_files(tmp_path / "empty")

    assert single
    assert (entry.size, entry.unreadable) == (0, "")


def test_an_empty_file_that_cannot_be_opened_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte of it would be read."""
    (tmp_path / "empty").touch()

    def refuse(path: str) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(listing, "open_for_reading", refuse)
    _, (entry,) = _list_files(tmp_path / "empty")
    assert (entry.size, entry.unreadable) == (0, "")


@pytest.mark.skipif(not _SHORT_FILES, reason="Linux only")
@pytest.mark.anyio
async def test_a_file_with_less_than_its_size_is_an_error() -> None:
    """Files of /sys report a page."""
    source = LocalSource(_SHORT_FILES[0])
    (entry,) = await source.list()
    assert entry.size > 100
    with pytest.raises(UnsupportedError, match="has less content than its size"):
        await source.fill(entry, ByteRangeBuffer(0, memoryview(bytearray(entry.size))))


@pytest.mark.anyio
async def test_a_file_that_became_a_fifo_does_not_block(tmp_path: Path) -> None:
    """Reading it fails at once, although nobody writes to it."""
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    source = LocalSource(path)
    (entry,) = await source.list()
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(SourceChangedError):
        await source.fill(entry, ByteRangeBuffer(0, memoryview(bytearray(10))))
    with pytest.raises(SourceChangedError):
        async with source.open_file(entry):
            pass


def test_a_missing_path_is_not_found(tmp_path: Path) -> None:
    """Also below something that is no folder."""
    make(tmp_path, "file")
    for path in (tmp_path / "absent", tmp_path / "file" / "below"):
        with pytest.raises(NotFoundError, match="no such file or folder"):
            _list_files(path)


def test_files_are_listed_in_versions_that_a_write_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was written within the last tick is looked at again when the tick is over."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    clock = [path.stat().st_ctime_ns]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += int(seconds * 1e9) + 1
        if len(slept) == 1:
            path.write_bytes(b"newer")

    monkeypatch.setattr(time, "time_ns", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", sleep)
    _, (entry,) = _list_files(path)

    assert slept
    assert entry.size == 5
    assert entry.file_version == FileVersion.of(path.stat())
