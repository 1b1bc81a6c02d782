"""`hftransfer._io.direct_io` and `hftransfer._core.memory`: writing past the page cache."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.memory import available_page_cache, memory_limit
from hftransfer._io.direct_io import DirectWriter, SharedExclusiveLock, WritePolicy
from hftransfer._io.partial_file import PartialFile

PAGE = 4096


def _aligned(data: bytes) -> memoryview:
    memory = mmap.mmap(-1, max(1, len(data)))
    memory[: len(data)] = data
    return memoryview(memory)[: len(data)]


ALWAYS = WritePolicy("on", 0, 0)


def test_the_mode_decides_and_auto_looks_at_the_room() -> None:
    """On and off are obeyed; auto spares a page cache that the transfer would flood."""
    assert WritePolicy("on", 1, 1 << 40).choose()
    assert not WritePolicy("off", 1 << 40, 1).choose()
    assert not WritePolicy("off", 1 << 40, 1).is_possible
    assert WritePolicy("auto", 51, 100).choose()
    assert not WritePolicy("auto", 50, 100).choose()


def note(policy: WritePolicy, direct: bool, seconds: float, *, waiting: float = 0.0) -> None:
    """Note a write of 8 MiB that waited for a share of its time."""
    policy.note(direct, 8 << 20, seconds, seconds * (1 - waiting))


class Writing:
    """Writes of 8 MiB, one after another, by a chooser of its own.

    Args:
        arrives: seconds from one chunk to the next.
    """

    def __init__(self, arrives: float = 0.0) -> None:
        self._now = 0.0
        self._arrives = arrives
        self._ways = WritePolicy("auto", 1, 1 << 40, clock=lambda: self._now)

    def go_on(self, count: int, *, through: float, past: float, waiting: float = 0.0) -> list[bool]:
        """Write `count` chunks, and return which went past the page cache.

        Args:
            through: seconds of a write through it.
            past: seconds of a write past it.
            waiting: share of that time without a core.
        """
        chosen = []
        for _ in range(count):
            direct = self._ways.choose()
            note(self._ways, direct, past if direct else through, waiting=waiting)
            chosen.append(direct)
            self._now += self._arrives
        return chosen


@given(through=st.floats(1e-4, 3.9e-3), past=st.floats(1e-4, 1e-1))
def test_auto_takes_the_quicker_way(through: float, past: float) -> None:
    """Seconds per write of 8 MiB through the page cache and past it decide, with a margin.

    The disk is tried now and then; the page cache only in the beginning.
    """
    chosen = Writing().go_on(100, through=through, past=past)

    assert chosen[:4] == [False, True, True, True]
    if past < 0.7 * through:
        assert all(chosen[4:])
    else:
        assert 3 <= chosen[4:].count(True) <= 5


@pytest.mark.parametrize(("past", "expected"), [(0.009, True), (0.011, False)])
def test_where_copies_are_dear_the_disk_need_not_be_much_quicker(
    past: float, expected: bool
) -> None:
    """10 ms of a core for 8 MiB, as where a host has to find the memory, are worth saving."""
    chosen = Writing().go_on(50, through=0.010, past=past)

    assert (chosen[-20:].count(True) > 15) is expected


def test_auto_notices_when_the_other_way_became_quicker() -> None:
    """Memory becomes dear in the middle of a transfer, and disks use up what they may burst."""
    writing = Writing()

    def goes_past(through: float, past: float) -> bool:
        """Whether the last writes of many go past the page cache."""
        chosen = writing.go_on(120, through=through, past=past)
        return chosen[-20:].count(True) > 10

    assert not goes_past(through=0.002, past=0.005)
    assert goes_past(through=0.030, past=0.005)
    assert not goes_past(through=0.030, past=0.050)


def test_the_way_past_is_not_left_for_a_quicker_one_while_the_disk_keeps_up() -> None:
    """Once copies have had to wait for cores, as much as arrives goes to the disk."""
    writing = Writing(arrives=0.010)
    writing.go_on(10, through=0.004, past=0.007, waiting=0.5)

    assert all(writing.go_on(90, through=0.004, past=0.007))


def test_short_writes_tell_nothing() -> None:
    """A tail of some bytes is written in no time, whatever the way."""
    policy = WritePolicy("auto", 1, 1 << 40)
    policy.note(False, 100, 1e-9, 1e-9)

    assert not policy.choose()


@pytest.mark.parametrize(
    ("waiting", "arrives", "expected"),
    [(0.5, 0.010, True), (0.1, 0.010, False), (0.5, 0.005, False)],
    ids=["too few cores", "cores to spare", "a slow disk"],
)
def test_where_cores_are_scarce_the_disk_takes_what_it_can(
    waiting: float, arrives: float, expected: bool
) -> None:
    """Copies that wait for a core give way, if 8 MiB reach the disk before 8 more arrive."""
    chosen = Writing(arrives).go_on(100, through=0.004, past=0.007, waiting=waiting)

    assert (chosen[-50:].count(True) > 40) is expected
    assert (chosen[-50:].count(True) < 10) is not expected


def test_direct_writes_are_judged_by_what_goes_at_once() -> None:
    """Four that take 8 ms side by side are quicker than four of 4 ms one after another."""
    policy = WritePolicy("auto", 1, 1 << 40)
    assert not policy.choose()
    note(policy, False, 0.004)
    assert [policy.choose() for _ in range(4)] == [True] * 4
    for _ in range(3):
        note(policy, True, 0.008)
        assert policy.choose()  # another one takes its place


def test_the_first_try_is_not_the_last() -> None:
    """One direct write that took long, as a file's first may, decides nothing."""
    policy = WritePolicy("auto", 1, 1 << 40, clock=lambda: 0.0)
    for direct, seconds in ((False, 0.010), (True, 0.020), (True, 0.002), (True, 0.002)):
        assert policy.choose() is direct
        note(policy, direct, seconds)

    assert policy.choose()


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE, 5 * PAGE + 77])
def test_a_file_has_its_size_and_bytes_whatever_its_tail(tmp_path: Path, size: int) -> None:
    """Whole blocks go directly, the rest as usual, and nothing is padded."""
    content = os.urandom(size)
    partial = PartialFile(
        tmp_path,
        "f.0123456789abcdef",
        identity="x",
        size=size,
        chunk_size=2 * PAGE,
        write_policy=ALWAYS,
    )
    view = _aligned(content)
    for index, start in enumerate(range(0, size, 2 * PAGE)):
        part = _aligned(bytes(view[start : start + 2 * PAGE]))
        partial.write(index, start, part, "0" * 32)
    partial.publish(tmp_path / "f", fsync=False)

    assert (tmp_path / "f").read_bytes() == content


def test_whole_blocks_are_written_past_the_page_cache(tmp_path: Path) -> None:
    """Where the file system has O_DIRECT, all but the tail is reported as written by it."""
    path = tmp_path / "f"
    path.touch()
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no O_DIRECT")
    writer = DirectWriter(path)

    assert writer.write(_aligned(b"a" * (2 * PAGE + 9)), PAGE) == 2 * PAGE

    writer.close()
    assert path.read_bytes() == bytes(PAGE) + b"a" * 2 * PAGE


@pytest.mark.parametrize("start", [1, 511, PAGE + 1])
def test_what_is_not_aligned_is_left_to_the_ordinary_way(tmp_path: Path, start: int) -> None:
    """An offset between blocks writes nothing directly, and is no error."""
    path = tmp_path / "f"
    path.touch()
    writer = DirectWriter(path)

    assert writer.write(_aligned(b"a" * PAGE), start) == 0

    writer.close()


def test_memory_that_is_not_aligned_ends_direct_writing_silently(tmp_path: Path) -> None:
    """The kernel refuses it, and the file is complete all the same."""
    content = os.urandom(4 * PAGE)
    odd = memoryview(bytearray(b"x" + content))[1:]
    partial = PartialFile(
        tmp_path,
        "f.0123456789abcdef",
        identity="x",
        size=len(content),
        chunk_size=len(content),
        write_policy=ALWAYS,
    )

    partial.write(0, 0, odd, "0" * 32)
    partial.publish(tmp_path / "f", fsync=False)

    assert (tmp_path / "f").read_bytes() == content


def test_where_there_is_no_direct_io_files_are_written_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that refuses the flag costs nothing but the attempt."""
    real_open = os.open

    def refusing(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real_open(path, flags, mode)

    monkeypatch.setattr("hftransfer._io.direct_io.os.open", refusing)
    path = tmp_path / "f"
    path.touch()

    assert DirectWriter(path).write(_aligned(b"a" * PAGE), 0) == 0


def test_a_broken_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only refusals of the kind of write are silent."""

    def failing(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "f"
    path.touch()
    writer = DirectWriter(path)
    if writer._fd < 0:
        pytest.skip("this file system has no O_DIRECT")
    monkeypatch.setattr("hftransfer._io.direct_io.os.pwrite", failing)

    with pytest.raises(OSError, match="Input/output"):
        writer.write(_aligned(b"a" * PAGE), 0)
    writer.close()


def test_the_control_groups_limit_counts(tmp_path: Path) -> None:
    """The smallest limit is the memory there is, for version 2 and version 1."""
    machine = memory_limit(tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory_limit(tmp_path) == 1_000_000 < machine

    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("500000")
    assert memory_limit(tmp_path) == 500_000

    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(1 << 62))
    assert memory_limit(tmp_path) == machine


@given(limit=st.integers(0, 1 << 40), used=st.integers(0, 1 << 40), cached=st.integers(0, 1 << 40))
def test_room_is_what_is_free_or_cached(limit: int, used: int, cached: int) -> None:
    """Pages of the cache give way without harm; the room is never more than any limit."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        group = Path(folder)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 5\nfile {cached}\nkernel 7\n")
        meminfo = group / "meminfo"
        meminfo.write_text("MemTotal: 99 kB\nMemAvailable:   2000000 kB\n")

        room = available_page_cache(group, meminfo)

    assert 0 <= room <= min(limit, 2_000_000 * 1024)
    assert room <= max(0, limit - used + cached)


def test_one_write_is_alone_and_others_go_side_by_side() -> None:
    """From many threads: never two alone, never one beside others, and none waits for ever."""
    turns = SharedExclusiveLock()
    under_way: list[bool] = []
    seen: list[tuple[int, int]] = []

    def write(alone: bool) -> None:
        for _ in range(50):
            with turns.alone() if alone else turns.beside_others():
                under_way.append(alone)
                seen.append((under_way.count(True), under_way.count(False)))
                under_way.remove(alone)

    threads = [threading.Thread(target=write, args=(index % 2 == 0,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert not any(thread.is_alive() for thread in threads)
    assert len(seen) == 300
    assert all(alone == 0 or (alone, beside) == (1, 0) for alone, beside in seen)


def test_two_writes_are_beside_each_other() -> None:
    """A second direct write does not wait for the first one."""
    turns = SharedExclusiveLock()
    both = threading.Barrier(2, timeout=30)

    def write() -> None:
        with turns.beside_others():
            both.wait()

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert not both.broken
