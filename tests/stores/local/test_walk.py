"""`hftransfer.stores.local.walk`: order, links and memory of a walk."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer.stores.local import walk
from hftransfer.stores.local.walk import walk_files

_SEGMENTS = st.sampled_from(["a", "a-", "a.b", "a0", "b", "é", "z\n", "\U0001f600", "\udcff"])
_TREES = st.lists(st.lists(_SEGMENTS, min_size=1, max_size=3).map("/".join), max_size=12)


def _show_all(path: str, *, is_folder: bool) -> bool:
    return False


@given(paths=_TREES, run_length=st.sampled_from([1, 2, 3, 20_000]))
def test_files_are_sorted_by_the_bytes_of_their_paths(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], run_length: int
) -> None:
    """As S3 lists keys, for any tree, and however many runs a folder's names take."""
    root = tmp_path_factory.mktemp("tree")
    made = set()
    for path in paths:
        file = root / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(exist_ok=True)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
        if file.is_file():
            made.add(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "_RUN_LENGTH", run_length)

        found = list(walk_files(str(root), is_hidden=_show_all))

    assert found == sorted(made, key=os.fsencode)


def test_links_to_folders_are_not_followed_and_hidden_folders_not_read(tmp_path: Path) -> None:
    """A link to a file is a file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "file").touch()
    (tmp_path / "link-to-folder").symlink_to("folder")
    (tmp_path / "link-to-file").symlink_to("folder/file")

    def hides(path: str, *, is_folder: bool) -> bool:
        return is_folder and path == "hidden"

    assert list(walk_files(str(tmp_path), is_hidden=hides)) == ["folder/file", "link-to-file"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """No file is left out silently."""
    with pytest.raises(FileNotFoundError):
        list(walk_files(str(tmp_path / "absent"), is_hidden=_show_all))


@pytest.mark.slow
def test_a_folder_of_many_files_takes_little_memory(tmp_path: Path) -> None:
    """Less than 60 bytes for a name of 20: as strings they would take 80."""
    count = 40_000
    for index in range(count):
        os.close(os.open(tmp_path / f"{index:020d}", os.O_CREAT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "_RUN_LENGTH", 1000)
        tracemalloc.start()
        found = sum(1 for _ in walk_files(str(tmp_path), is_hidden=_show_all))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert found == count
    assert peak < 60 * count
