"""`hftransfer._io.destination_folders`: no folder outside of the destination is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from hftransfer._io.destination_folders import DestinationFolders
from hftransfer.errors import DestinationError
from hftransfer.testing import SlowFileSystem


def test_folders_are_created_and_looked_at_once(tmp_path: Path) -> None:
    """Each file after the first of a folder costs no call."""
    folders = DestinationFolders(tmp_path / "a" / "root")
    folders.create(tmp_path / "a" / "root" / "b" / "c")
    assert (tmp_path / "a" / "root" / "b" / "c").is_dir()

    with SlowFileSystem(tmp_path, delay=0) as slow:
        for _ in range(100):
            folders.create(tmp_path / "a" / "root" / "b" / "c")
            folders.create(tmp_path / "a" / "root" / "b")
    assert not slow.calls


@pytest.mark.parametrize("target", ["../outside", "../outside/new", "..", "/"])
def test_a_link_that_leads_outside_is_refused(tmp_path: Path, target: str) -> None:
    """The message names the link, where it leads and what to do; nothing is created there."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    root.mkdir()
    (root / "sub").symlink_to(target)

    for folder in (root / "sub", root / "sub" / "below"):
        with pytest.raises(DestinationError, match=r"sub is a symbolic link to .*remove the link"):
            DestinationFolders(root).create(folder)
    assert list(outside.iterdir()) == []


def test_a_link_inside_the_destination_is_followed(tmp_path: Path) -> None:
    """Also if the destination is a link itself, as folders on another disk often are."""
    (tmp_path / "real" / "v2").mkdir(parents=True)
    (tmp_path / "real" / "latest").symlink_to("v2")
    (tmp_path / "root").symlink_to("real")

    DestinationFolders(tmp_path / "root").create(tmp_path / "root" / "latest" / "sub")

    assert (tmp_path / "real" / "v2" / "sub").is_dir()


@pytest.mark.parametrize("plant", ["file", "link"])
def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path, plant: str) -> None:
    """It names the folder."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")

    with pytest.raises(DestinationError, match=plant):
        DestinationFolders(tmp_path).create(tmp_path / plant / "sub")


def test_a_folder_that_was_deleted_is_created_again(tmp_path: Path) -> None:
    """With `look_again`, and those above it."""
    folders, folder = DestinationFolders(tmp_path / "root"), tmp_path / "root" / "a" / "b"
    folders.create(folder)
    folder.rmdir()
    folder.parent.rmdir()

    folders.create(folder, look_again=True)

    assert folder.is_dir()
