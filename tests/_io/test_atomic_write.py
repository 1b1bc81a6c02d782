"""`hftransfer._io.atomic_write`: a name shows the old content or the new one, never a part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hftransfer._io.atomic_write import (
    open_atomically,
    replace_atomically,
    temporary_name,
    write_atomically,
)
from hftransfer._io.regular_file import create_exclusive


def test_the_content_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    """With and without fsync, and from a folder of its own."""
    target = tmp_path / "target"
    target.write_bytes(b"old and longer")

    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    write_atomically(target, memoryview(b"newer"), fsync=True)
    assert target.read_bytes() == b"newer"
    write_atomically(target, b"newest", folder=tmp_path / "work", prefix="name")

    assert target.read_bytes() == b"newest"
    assert list((tmp_path / "work").iterdir()) == []
    assert sorted(os.listdir(tmp_path)) == ["target", "work"]


def test_missing_folders_are_created(tmp_path: Path) -> None:
    """That of the temporary file and that of the target."""
    write_atomically(tmp_path / "a" / "b" / "target", b"x", folder=tmp_path / "c" / "d")

    assert (tmp_path / "a" / "b" / "target").read_bytes() == b"x"


def test_a_failure_leaves_the_target_and_no_temporary_file(tmp_path: Path) -> None:
    """Whatever the block raises goes on to the caller."""
    target = tmp_path / "target"
    target.write_bytes(b"old")

    with pytest.raises(KeyboardInterrupt), open_atomically(target) as fd:
        os.write(fd, b"half")
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="no"), replace_atomically(target) as temporary:
        raise ValueError("no")

    assert not os.path.exists(temporary)
    assert os.listdir(tmp_path) == ["target"]
    assert target.read_bytes() == b"old"


def test_a_link_can_be_replaced_by_a_link(tmp_path: Path) -> None:
    """The block may create anything at the temporary path."""
    link = tmp_path / "link"
    link.symlink_to("old")

    with replace_atomically(link) as temporary:
        os.symlink("new", temporary)

    assert os.readlink(link) == "new"
    assert os.listdir(tmp_path) == ["link"]


def test_temporary_files_are_new(tmp_path: Path) -> None:
    """Names differ, and an existing file is never opened for writing."""
    assert temporary_name("a") != temporary_name("a")
    (tmp_path / "file").touch()

    with pytest.raises(FileExistsError):
        create_exclusive(tmp_path / "file")
