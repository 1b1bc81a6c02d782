"""What tasks of one machine share: locks, folders of killed attempts, files that are there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("metaflow.decorators")

from hftransfer import FileManifest, IntegrityError, Manifest
from hftransfer.stores.base import Entry
from metaflow_extensions.hftransfer.plugins.engine.reflink import clone, link, place_files
from metaflow_extensions.hftransfer.plugins.engine.reuse_sink import KeepingSink, chunk_digests
from metaflow_extensions.hftransfer.plugins.hub.host_lock import machine_lock
from metaflow_extensions.hftransfer.plugins.hub.task_dirs import TaskFolder

pytestmark = pytest.mark.metaflow


def test_a_lock_keeps_its_note_for_the_next_holder(tmp_path: Path) -> None:
    """What one holder leaves the next one reads; other names have other notes."""
    with machine_lock("a", "b", folder=str(tmp_path)) as lock:
        assert lock.read_note() == {}
        lock.leave_note({"key": "x" * 5000})
        lock.leave_note({"key": "y"})

    with machine_lock("a", "b", folder=str(tmp_path)) as lock:
        assert lock.read_note() == {"key": "y"}
        assert not lock.waited
    with machine_lock("ab", folder=str(tmp_path)) as lock:
        assert lock.read_note() == {}


def test_a_lock_is_waited_for_and_dies_with_its_holder(tmp_path: Path) -> None:
    """Who waits is told so, and goes on when the holder is killed."""
    program = """
import sys, time
from metaflow_extensions.hftransfer.plugins.hub.host_lock import machine_lock
with machine_lock("a", folder=sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with machine_lock("a", on_wait=holder.kill, folder=str(tmp_path)) as lock:
            assert lock.waited
    assert holder.returncode != 0


def test_without_locks_every_task_works_for_itself(tmp_path: Path) -> None:
    """A place where no lock can be made is no reason to fail."""
    (tmp_path / "file").write_text("")

    with machine_lock("a", folder=str(tmp_path / "file" / "below")) as lock:
        lock.leave_note({"key": "x"})
        assert lock.read_note() == {}


def test_a_folder_is_found_again_by_the_same_owner_alone(tmp_path: Path) -> None:
    """The next attempt takes over what is there; another task, or a living one, does not."""
    first = TaskFolder("hf_", "Flow/1/start/1", str(tmp_path))
    (first.path / "file").write_text("x")
    living = TaskFolder("hf_", "Flow/1/start/1", str(tmp_path))
    other = TaskFolder("hf_", "Flow/1/start/2", str(tmp_path))
    assert len({first.path, living.path, other.path}) == 3
    first.keep()

    retry = TaskFolder("hf_", "Flow/1/start/1", str(tmp_path))

    assert retry.path == first.path
    assert (retry.path / "file").read_text() == "x"
    for folder in (retry, living, other):
        folder.close()
    assert list(tmp_path.iterdir()) == []


def stored(folder: Path) -> tuple[Path, Manifest]:
    """Return a folder with two files and their manifest."""
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"a" * 100)
    (folder / "deep" / "b").write_bytes(b"b" * 1000)
    files = {}
    for name, size in (("a", 100), ("deep/b", 1000)):
        chunks = chunk_digests(folder / name, size, 64)
        assert chunks is not None
        files[name] = FileManifest(size=size, chunk_size=64, chunks=chunks)
    return folder, Manifest(source="here", files=files)


def copied(source: Path, target: Path) -> bool:
    """Stand in for a file system that can share blocks."""
    shutil.copyfile(source, target)
    return True


@pytest.mark.parametrize("make", [copied, link])
def test_clones_and_links_replace_what_was_there(tmp_path: Path, make: object) -> None:
    """Files get their places at once, other files stay, and nothing else is left."""
    source, manifest = stored(tmp_path / "stored")
    target = tmp_path / "target"
    target.mkdir()
    (target / "a").write_text("older")
    (target / "notes").write_text("mine")

    assert place_files(source, target, manifest, make)  # type: ignore[arg-type]

    names = sorted(str(file.relative_to(target)) for file in target.rglob("*") if file.is_file())
    assert names == ["a", "deep/b", "notes"]
    assert (target / "a").read_bytes() == b"a" * 100


@pytest.mark.parametrize("make", [copied, link])
def test_a_damaged_file_is_neither_cloned_nor_linked(tmp_path: Path, make: object) -> None:
    """Every chunk is checked before a file gets its name."""
    source, manifest = stored(tmp_path / "stored")
    (source / "deep" / "b").write_bytes(b"b" * 999 + b"?")
    target = tmp_path / "target"

    with pytest.raises(IntegrityError):
        place_files(source, target, manifest, make)  # type: ignore[arg-type]

    assert not (target / "deep" / "b").exists()
    assert [file.name for file in target.rglob("*") if file.is_file()] == ["a"]


def test_where_blocks_cannot_be_shared_nothing_is_changed(tmp_path: Path) -> None:
    """The caller copies then; where they can be, the copy is independent of its origin."""
    (tmp_path / "a").write_bytes(b"x" * 10)

    if clone(tmp_path / "a", tmp_path / "b"):
        (tmp_path / "b").write_bytes(b"changed")
        assert (tmp_path / "a").read_bytes() == b"x" * 10
    else:
        assert os.listdir(tmp_path) == ["a"]


@pytest.mark.asyncio
async def test_a_folder_keeps_what_is_right_and_gets_the_rest(tmp_path: Path) -> None:
    """Kept are files with the recorded chunks; no link, no other size, no other content."""
    source, manifest = stored(tmp_path / "stored")
    target = tmp_path / "target"
    shutil.copytree(source, target)
    files = manifest.files.items()
    entries = [Entry(path=name, size=file.size, manifest=file) for name, file in files]
    sink = KeepingSink(target)

    async def kept() -> list[str]:
        await sink.prepare(entries)
        found = []
        for entry in entries:
            file = await sink.begin(entry, 64)
            if file is None:
                found.append(entry.path)
            else:
                await file.abort(discard=True)
        return found

    assert await kept() == ["a", "deep/b"]
    (target / "a").write_bytes(b"?" * 100)
    (target / "deep" / "b").write_bytes(b"b" * 999)
    assert await kept() == []
    (target / "a").unlink()
    (target / "a").symlink_to(source / "a")
    shutil.rmtree(target / "deep")
    assert await kept() == []
