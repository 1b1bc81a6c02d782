"""`hftransfer._io.existing_names`: what exists, with one call for each folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hftransfer._io.existing_names import ExistingNames
from hftransfer.testing import SlowFileSystem
from support.local_files import without_privileges


def test_it_is_what_the_disk_says(tmp_path: Path) -> None:
    """For files, folders, links with and without target, and other names."""
    (tmp_path / "file").touch()
    (tmp_path / "ü").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("gone")

    names = ExistingNames()
    for name in ("file", "ü", "ö", "folder", "link", "dangling", "gone", "gone/x", "file/x"):
        assert names.exists(tmp_path / name) == (tmp_path / name).exists(), name


@pytest.mark.parametrize("folder", ["", "gone"])
def test_a_thousand_missing_files_cost_one_call(tmp_path: Path, folder: str) -> None:
    """In an empty folder, and in one that does not exist."""
    names = ExistingNames()
    with SlowFileSystem(tmp_path, delay=0) as slow:
        assert not any(names.exists(tmp_path / folder / str(n)) for n in range(1000))

    assert slow.calls == {"listdir": 1}


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    """Its files are found by their names."""
    (tmp_path / "file").touch()
    tmp_path.chmod(0o300)
    program = """
        from hftransfer._io.existing_names import ExistingNames
        print(ExistingNames().exists(folder / "file"), ExistingNames().exists(folder / "gone"))
    """
    try:
        assert without_privileges(tmp_path, program) == "True False\n"
    finally:
        tmp_path.chmod(0o700)
