"""Temporary folders that the next attempt of a task uses again."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("metaflow.decorators")

from metaflow_extensions.hftransfer.plugins.hub.task_dirs import TaskDir

pytestmark = pytest.mark.metaflow


def test_only_the_next_attempt_of_the_same_task_gets_the_folder(tmp_path: Path) -> None:
    """A folder that is in use, and one of another task, is not used again."""
    first = TaskDir("hf_", "Flow/1/start/1", str(tmp_path))
    (first.path / "file").write_text("x")
    in_use = TaskDir("hf_", "Flow/1/start/1", str(tmp_path))
    other = TaskDir("hf_", "Flow/1/start/2", str(tmp_path))
    assert len({first.path, in_use.path, other.path}) == 3
    first.keep()

    retry = TaskDir("hf_", "Flow/1/start/1", str(tmp_path))

    assert retry.path == first.path
    assert (retry.path / "file").read_text() == "x"
    for folder in (retry, in_use, other):
        folder.close()
    assert list(tmp_path.iterdir()) == []
