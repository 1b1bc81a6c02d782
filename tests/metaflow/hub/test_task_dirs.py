"""Temporary folders that the next attempt of a task uses again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("metaflow.decorators")

from metaflow_extensions.hftransfer.plugins.hub.task_dirs import TaskDir

pytestmark = pytest.mark.metaflow


def test_only_the_next_attempt_of_the_same_task_gets_the_folder(tmp_path: Path) -> None:
    """A folder that is in use, and one of another task, is not used again."""
    first = TaskDir("metaflow_hf_", "Flow/1/start/1", str(tmp_path))
    (first.path / "file").write_text("x")
    in_use = TaskDir("metaflow_hf_", "Flow/1/start/1", str(tmp_path))
    other = TaskDir("metaflow_hf_", "Flow/1/start/2", str(tmp_path))
    assert len({first.path, in_use.path, other.path}) == 3
    first.keep()

    retry = TaskDir("metaflow_hf_", "Flow/1/start/1", str(tmp_path))

    assert retry.path == first.path
    assert (retry.path / "file").read_text() == "x"
    for folder in (retry, in_use, other):
        folder.close()
    assert list(tmp_path.iterdir()) == []


ORPHAN = """
import os, signal, sys
from metaflow_extensions.hftransfer.plugins.hub.task_dirs import TaskDir

if os.fork():
    os.wait()  # the scheduler, which ends without another attempt
else:
    folder = TaskDir("metaflow_hf_", "Flow/1/start/1", sys.argv[1], "files of a")
    (folder.path / "file").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_of_a_dead_run_is_used_again_or_removed(tmp_path: Path) -> None:
    """By a task that needs the same content it is used, by any other it is removed."""
    for content, expected in (("files of a", ["file"]), ("files of b", [])):
        subprocess.run([sys.executable, "-c", ORPHAN, str(tmp_path)], check=True)
        assert len(list(tmp_path.iterdir())) == 2  # the folder and its lock

        folder = TaskDir("metaflow_hf_", "Flow/2/start/7", str(tmp_path), content)

        assert [file.name for file in folder.path.iterdir()] == expected
        assert len(list(tmp_path.iterdir())) == 2
        folder.close()
        assert list(tmp_path.iterdir()) == []


def test_the_folder_that_a_retry_resumes_stays(tmp_path: Path) -> None:
    """While the process that started its owner lives, the next attempt may come."""
    program = ORPHAN.replace("if os.fork():", "if False:")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)

    other = TaskDir("metaflow_hf_", "Flow/2/start/7", str(tmp_path), "files of a")
    other.close()
    retry = TaskDir("metaflow_hf_", "Flow/1/start/1", str(tmp_path), "files of a")

    assert (retry.path / "file").read_text() == "x"
    retry.close()
