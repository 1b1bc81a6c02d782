"""`hftransfer._io.direct_io`: writes past the page cache, alone and in a `PartialFile`."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from pathlib import Path

import pytest

from hftransfer._io.direct_io import DirectIO, DirectWriter, SharedExclusiveLock
from hftransfer._io.file_range import read_fully_nowait
from hftransfer._io.partial_file import PartialFile
from hftransfer._io.write_policy import WritePolicy

PAGE = 4096


def _writer(path: Path) -> DirectWriter:
    fd = os.open(path, os.O_RDWR)
    try:
        return DirectWriter(path, fd)
    finally:
        os.close(fd)


def _aligned(data: bytes) -> memoryview:
    memory = mmap.mmap(-1, max(1, len(data)))
    memory[: len(data)] = data
    return memoryview(memory)[: len(data)]


def _is_cached(path: Path, start: int, size: int) -> bool:
    """Return True if a range of a file can be read without waiting for the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        buffer = memoryview(bytearray(size))
        return read_fully_nowait(fd, buffer, start) == size
    finally:
        os.close(fd)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder on a file system with O_DIRECT that reports which pages are cached."""
    path = tmp_path / "probe"
    path.write_bytes(b"a" * PAGE)
    try:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError:
        pytest.skip("this file system has no O_DIRECT")
    try:
        cached_before = _is_cached(path, 0, PAGE)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if not cached_before or _is_cached(path, 0, PAGE):
            pytest.skip("this file system does not report which pages are cached")
    except OSError:
        pytest.skip("this file system has no RWF_NOWAIT")
    finally:
        os.close(fd)
    path.unlink()
    return tmp_path


def _partial(folder: Path, size: int, mode: DirectIO = "on", chunk: int = 2 * PAGE) -> PartialFile:
    return PartialFile(
        folder,
        "f.0123456789abcdef",
        identity="x",
        size=size,
        chunk_size=chunk,
        write_policy=WritePolicy(mode, 0, 0),
    )


@pytest.mark.parametrize(("mode", "is_cached"), [("on", False), ("off", True)])
def test_the_mode_decides_whether_a_chunk_is_in_the_page_cache(
    disk: Path, mode: DirectIO, is_cached: bool
) -> None:
    """``on`` writes whole blocks past the cache; ``off`` writes through it."""
    size = 64 * PAGE
    partial = _partial(disk, size, mode, size)

    partial.write(0, 0, _aligned(os.urandom(size)), "0" * 32)

    assert _is_cached(partial.path, 0, size) is is_cached
    partial.remove()


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE, 5 * PAGE + 77])
def test_a_file_of_any_size_is_written_exactly(tmp_path: Path, size: int) -> None:
    """Whole blocks are written directly, the rest through the page cache, without padding."""
    content = os.urandom(size)
    partial = _partial(tmp_path, size)
    for index, start in enumerate(range(0, size, 2 * PAGE)):
        part = _aligned(content[start : start + 2 * PAGE])
        partial.write(index, start, part, "0" * 32)
    partial.publish(tmp_path / "f", fsync=False)

    assert (tmp_path / "f").read_bytes() == content


def test_whole_blocks_are_written_past_the_page_cache(disk: Path) -> None:
    """The descriptor has O_DIRECT, the pages are not cached, and only the tail is left."""
    path = disk / "f"
    path.touch()
    writer = _writer(path)

    assert fcntl.fcntl(writer._fd, fcntl.F_GETFL) & os.O_DIRECT
    assert writer.write(_aligned(b"a" * (2 * PAGE + 9)), PAGE) == 2 * PAGE
    assert not _is_cached(path, PAGE, 2 * PAGE)

    writer.close()
    assert path.read_bytes() == bytes(PAGE) + b"a" * 2 * PAGE


@pytest.mark.parametrize("start", [1, 511, PAGE + 1])
def test_an_unaligned_offset_is_not_written_directly(tmp_path: Path, start: int) -> None:
    """The writer writes nothing and reports no error."""
    path = tmp_path / "f"
    path.touch()
    writer = _writer(path)

    assert writer.write(_aligned(b"a" * PAGE), start) == 0

    writer.close()
    assert path.read_bytes() == b""


def test_unaligned_memory_is_written_through_the_page_cache(disk: Path) -> None:
    """The kernel rejects the direct write; the file is complete, and later writes are cached."""
    content = os.urandom(4 * PAGE)
    unaligned = memoryview(bytearray(b"x" + content))[1:]
    partial = _partial(disk, len(content), chunk=len(content))

    partial.write(0, 0, unaligned, "0" * 32)

    assert _is_cached(partial.path, 0, len(content))
    partial.publish(disk / "f", fsync=False)
    assert (disk / "f").read_bytes() == content


def test_without_o_direct_nothing_is_written_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that rejects the flag causes no error."""
    real_open = os.open

    def reject(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real_open(path, flags, mode)

    monkeypatch.setattr("hftransfer._io.direct_io.os.open", reject)
    path = tmp_path / "f"
    path.touch()

    assert _writer(path).write(_aligned(b"a" * PAGE), 0) == 0


def test_a_broken_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors that mean that direct writes are not supported are ignored."""

    def fail(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "f"
    path.touch()
    writer = _writer(path)
    if writer._fd < 0:
        pytest.skip("this file system has no O_DIRECT")
    monkeypatch.setattr("hftransfer._io.direct_io.os.pwrite", fail)

    with pytest.raises(OSError, match="Input/output"):
        writer.write(_aligned(b"a" * PAGE), 0)
    writer.close()


def test_exclusive_holders_are_alone_and_shared_ones_are_not() -> None:
    """From many threads: no holder beside an exclusive one, and every thread gets its turn."""
    lock = SharedExclusiveLock()
    holders: list[bool] = []  # True for exclusive
    seen: list[tuple[int, int]] = []

    def hold(exclusive: bool) -> None:
        for _ in range(50):
            with lock.exclusive() if exclusive else lock.shared():
                holders.append(exclusive)
                seen.append((holders.count(True), holders.count(False)))
                holders.remove(exclusive)

    threads = [threading.Thread(target=hold, args=(index % 2 == 0,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert not any(thread.is_alive() for thread in threads)
    assert len(seen) == 300
    assert all(exclusive == 0 or (exclusive, shared) == (1, 0) for exclusive, shared in seen)


def test_two_threads_share_the_lock() -> None:
    """A second direct write does not wait for the first one."""
    lock = SharedExclusiveLock()
    both = threading.Barrier(2, timeout=30)

    def hold() -> None:
        with lock.shared():
            both.wait()

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert not both.broken


def test_another_file_at_the_path_is_not_written(tmp_path: Path) -> None:
    """A link or a file that took the place of the open one keeps its content."""
    opened, victim = tmp_path / "f", tmp_path / "victim"
    opened.touch()
    victim.touch()
    fd = os.open(opened, os.O_RDWR)

    for replace in (opened.symlink_to, opened.hardlink_to):
        opened.unlink()
        replace(victim)
        assert DirectWriter(opened, fd).write(_aligned(b"a" * PAGE), 0) == 0
    os.close(fd)

    assert victim.read_bytes() == b""
