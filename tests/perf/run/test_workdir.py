"""The directories of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.run.workdir import MANY_FILES, Workdirs


@pytest.mark.parametrize(("files", "kept"), [(1, 0), (MANY_FILES, 2)])
def test_deletion_is_postponed_with_many_files(tmp_path: Path, files: int, kept: int) -> None:
    """Every run gets an empty directory; `clear` deletes those that were moved aside."""
    workdirs = Workdirs(tmp_path, files)

    for _ in range(2):
        with workdirs.create() as workdir:
            assert list(workdir.iterdir()) == []
            (workdir / "file").write_text("x")

    assert len(list(tmp_path.rglob("file"))) == kept
    workdirs.clear()
    assert list(tmp_path.iterdir()) == []
