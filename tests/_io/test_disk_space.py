"""`hftransfer._io.disk_space`: only what is missing must fit on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._io.disk_space import (
    PlannedFile,
    check_destination,
    free_space,
    missing_space,
    space_needed,
)
from hftransfer._io.partial_file import PartialFile
from hftransfer.errors import DestinationError, DiskFullError

SIZE = 4 << 20
CONTENT = "0123456789abcdef"

_bytes = st.integers(0, 1 << 50)
_files = st.lists(st.tuples(_bytes, _bytes, _bytes), max_size=8)


def _no_call() -> int:
    raise AssertionError("what is missing need not be known")


def _set_free(monkeypatch: pytest.MonkeyPatch, free: int, *, blocks: int = 1 << 40) -> None:
    status = SimpleNamespace(f_bavail=free, f_frsize=1, f_blocks=blocks)
    monkeypatch.setattr(os, "statvfs", lambda path: status)


def _planned(folder: Path, name: str) -> PlannedFile:
    return PlannedFile(folder / name, SIZE, folder, f".{name}.{CONTENT}")


def _leave_partial(folder: Path, name: str) -> PartialFile:
    return PartialFile(folder, f".{name}.{CONTENT}", identity="id", size=SIZE, chunk_size=SIZE // 4)


def test_a_disk_without_enough_space_is_found_before_writing(tmp_path: Path) -> None:
    """The message has needed and free bytes; no folder is created."""
    with pytest.raises(DiskFullError, match=rf"{1 << 62} bytes are needed, \d+ are free"):
        check_destination(tmp_path / "new", 1 << 62, lambda: 1 << 62)

    assert not (tmp_path / "new").exists()


def test_nothing_is_looked_up_if_everything_fits(tmp_path: Path) -> None:
    """The usual case costs one call of statvfs, however many files there are."""
    check_destination(tmp_path, 1, _no_call)


def test_a_partial_file_of_a_dead_process_is_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was allocated in full length, so its resumption fits on a disk without free space."""
    _leave_partial(tmp_path, "a").close()
    files = [_planned(tmp_path, "a")]
    if not missing_space(files) < SIZE:
        pytest.skip("this file system does not preallocate")
    _set_free(monkeypatch, 0)

    check_destination(tmp_path, SIZE, lambda: missing_space(files))

    files.append(_planned(tmp_path, "b"))
    with pytest.raises(DiskFullError, match=f"{SIZE} bytes are needed, 0 are free"):
        check_destination(tmp_path, 2 * SIZE, lambda: missing_space(files))


def test_the_partial_file_of_a_running_process_is_counted(tmp_path: Path) -> None:
    """This process writes another one beside it."""
    partial = _leave_partial(tmp_path, "a")

    assert missing_space([_planned(tmp_path, "a")]) == SIZE
    partial.remove()


def test_finished_files_are_not_counted_again(tmp_path: Path) -> None:
    """Files that are replaced one after the other need the space of one beside the old ones."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(os.urandom(SIZE))

    assert missing_space([_planned(tmp_path, name) for name in ("a", "b", "c")]) == SIZE


def test_a_file_system_without_sizes_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 blocks do not mean 0 free bytes; a file is created there, and removed, to find out."""
    _set_free(monkeypatch, 0, blocks=0)

    assert free_space(tmp_path) is None
    check_destination(tmp_path, 1 << 62, _no_call)
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc")
def test_a_pseudo_file_system_takes_no_files() -> None:
    """The error says that it cannot be written, and not that there is no space."""
    with pytest.raises(DestinationError, match="cannot write to /proc") as caught:
        check_destination(Path("/proc/new"), 1, _no_call)

    assert not isinstance(caught.value, DiskFullError)


@given(files=_files)
def test_the_space_needed_is_bounded(files: list[tuple[int, int, int]]) -> None:
    """It is never more than what is missing of all files, nor less than of the largest."""
    missing = [max(0, size - partial) for size, partial, _ in files]

    assert max(missing, default=0) <= space_needed(files) <= sum(missing)


@given(files=_files, extra=_bytes)
def test_a_longer_partial_file_never_needs_more(
    files: list[tuple[int, int, int]], extra: int
) -> None:
    """Progress of an interrupted transfer does not make its resumption impossible."""
    longer = [(size, partial + extra, replaced) for size, partial, replaced in files]

    assert space_needed(longer) <= space_needed(files)
