"""`hftransfer._io.disk_space`: only what is missing must fit on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._io.disk_space import FreeSpace, PlannedFile, SpaceNeeded, free_space
from hftransfer._io.partial_file import PartialFile
from hftransfer._io.stale_partials import StalePartials
from hftransfer.errors import DestinationError, DiskFullError

SIZE = 4 << 20
CONTENT = "0123456789abcdef"

_bytes = st.integers(0, 1 << 50)
_files = st.lists(st.tuples(_bytes, _bytes, _bytes), max_size=8)


def _no_call() -> list[PlannedFile]:
    raise AssertionError("what is missing need not be known")


def _set_free(monkeypatch: pytest.MonkeyPatch, free: int, *, blocks: int = 1 << 40) -> None:
    status = SimpleNamespace(f_bavail=free, f_frsize=1, f_blocks=blocks)
    monkeypatch.setattr(os, "statvfs", lambda path: status)


def _planned(folder: Path, *names: str) -> list[PlannedFile]:
    return [PlannedFile(folder / name, SIZE, folder, f".{name}.{CONTENT}") for name in names]


def _leave_partial(folder: Path, name: str) -> PartialFile:
    return PartialFile(folder, f".{name}.{CONTENT}", identity="id", size=SIZE, chunk_size=SIZE // 4)


def _require(space: FreeSpace, files: list[PlannedFile]) -> None:
    space.require(sum(file.size for file in files), lambda: files)


def _space(folder: Path) -> FreeSpace:
    return FreeSpace.of(folder, StalePartials())


def _needed(files: list[tuple[int, int, int]]) -> int:
    needed = SpaceNeeded()
    for size, partial, replaced in files:
        needed.add(size, partial, replaced)
    return needed.bytes


def test_a_disk_without_enough_space_is_found_before_writing(tmp_path: Path) -> None:
    """The message has needed and free bytes; no folder is created."""
    folder = tmp_path / "new"
    files = [PlannedFile(folder / "a", 1 << 62, folder, f".a.{CONTENT}")]
    with pytest.raises(DiskFullError, match=rf"{1 << 62} bytes are needed, \d+ are free"):
        _require(_space(folder), files)

    assert not folder.exists()


def test_nothing_is_looked_up_if_the_files_are_small_beside_the_free_space(tmp_path: Path) -> None:
    """The usual case costs one call of statvfs, however many files there are."""
    space = _space(tmp_path)
    for _ in range(3):
        space.require(1, _no_call)


def test_a_partial_file_of_a_dead_process_is_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was allocated in full length, so its resumption fits on a disk without free space."""
    _leave_partial(tmp_path, "a").close()
    if (tmp_path / f".a.{CONTENT}.0.incomplete").stat().st_blocks * 512 < SIZE:
        pytest.skip("this file system does not preallocate")
    _set_free(monkeypatch, 0)

    _require(_space(tmp_path), _planned(tmp_path, "a"))

    with pytest.raises(DiskFullError, match=f"{SIZE} bytes are needed, 0 are free"):
        _require(_space(tmp_path), _planned(tmp_path, "a", "b"))


def test_the_partial_file_of_a_running_process_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process writes another one beside it."""
    partial = _leave_partial(tmp_path, "a")
    _set_free(monkeypatch, SIZE - 1)

    with pytest.raises(DiskFullError, match=f"{SIZE} bytes are needed"):
        _require(_space(tmp_path), _planned(tmp_path, "a"))
    partial.remove()


def test_finished_files_are_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the same size are there; those that are replaced one after the other need the space
    of one beside the old ones."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(os.urandom(SIZE))
    _set_free(monkeypatch, 0)
    _require(_space(tmp_path), _planned(tmp_path, "a", "b", "c"))
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(os.urandom(SIZE - 1))
    _set_free(monkeypatch, SIZE)

    _require(_space(tmp_path), _planned(tmp_path, "a", "b", "c"))

    _set_free(monkeypatch, SIZE - 1)
    with pytest.raises(DiskFullError, match=f"{SIZE} bytes are needed"):
        _require(_space(tmp_path), _planned(tmp_path, "a", "b", "c"))


def test_files_of_earlier_pages_count_as_they_were_when_their_page_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files have partial files. The first one is published before the second page comes."""
    for name in ("a", "b"):
        _leave_partial(tmp_path, name).close()
    if (tmp_path / f".a.{CONTENT}.0.incomplete").stat().st_blocks * 512 < SIZE:
        pytest.skip("this file system does not preallocate")
    _set_free(monkeypatch, 0)
    space = _space(tmp_path)

    _require(space, _planned(tmp_path, "a"))
    _leave_partial(tmp_path, "a").publish(tmp_path / "a", fsync=False)
    _require(space, _planned(tmp_path, "b"))

    with pytest.raises(DiskFullError, match=f"{SIZE} bytes are needed, 0 are free"):
        _require(space, _planned(tmp_path, "c"))


def test_what_all_pages_need_is_compared_with_the_space_before_the_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pages fit and three do not, although the files of the first two have used the space."""
    _set_free(monkeypatch, 2 * SIZE)
    space = _space(tmp_path)
    _require(space, _planned(tmp_path, "a"))
    _set_free(monkeypatch, SIZE)
    _require(space, _planned(tmp_path, "b"))

    with pytest.raises(DiskFullError, match=f"{3 * SIZE} bytes are needed, {2 * SIZE} are free"):
        _require(space, _planned(tmp_path, "c"))


def test_a_file_system_without_sizes_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 blocks do not mean 0 free bytes; a file is created there, and removed, to find out."""
    _set_free(monkeypatch, 0, blocks=0)

    assert free_space(tmp_path) is None
    _space(tmp_path).require(1 << 62, _no_call)
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc")
def test_a_pseudo_file_system_takes_no_files() -> None:
    """The error says that it cannot be written, and not that there is no space."""
    with pytest.raises(DestinationError, match="cannot write to /proc") as caught:
        _space(Path("/proc/new"))

    assert not isinstance(caught.value, DiskFullError)


@given(files=_files)
def test_the_space_needed_is_bounded(files: list[tuple[int, int, int]]) -> None:
    """It is never more than what is missing of all files, nor less than of the largest."""
    missing = [max(0, size - partial) for size, partial, _ in files]

    assert max(missing, default=0) <= _needed(files) <= sum(missing)


@given(files=_files, extra=_bytes)
def test_a_longer_partial_file_never_needs_more(
    files: list[tuple[int, int, int]], extra: int
) -> None:
    """Progress of an interrupted transfer does not make its resumption impossible."""
    longer = [(size, partial + extra, replaced) for size, partial, replaced in files]

    assert _needed(longer) <= _needed(files)
