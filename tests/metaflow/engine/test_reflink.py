"""Files of a local datastore that are cloned or linked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("metaflow.decorators")

from hftransfer import IntegrityError
from hftransfer._io.buffers import BufferPool
from metaflow_extensions.hftransfer.plugins.engine.reflink import Make, clone, link, place_files
from support.metaflow_stores import stored_folder

pytestmark = [pytest.mark.metaflow, pytest.mark.asyncio]


def copied(source: Path, target: Path) -> bool:
    """Stands in for `clone` where the file system cannot share blocks."""
    shutil.copyfile(source, target)
    return True


@pytest.mark.parametrize("make", [copied, link])
async def test_existing_files_are_replaced(tmp_path: Path, make: Make) -> None:
    """Files get their names complete, other files stay, and no temporary file is left."""
    source, manifest = stored_folder(tmp_path / "stored")
    target = tmp_path / "target"
    target.mkdir()
    (target / "a").write_text("older")
    (target / "notes").write_text("mine")

    assert await place_files(source, target, manifest, make, BufferPool(1 << 20))

    names = sorted(str(file.relative_to(target)) for file in target.rglob("*") if file.is_file())
    assert names == ["a", "deep/b", "notes"]
    assert (target / "a").read_bytes() == b"a" * 100


@pytest.mark.parametrize("make", [copied, link])
async def test_a_damaged_file_is_neither_cloned_nor_linked(tmp_path: Path, make: Make) -> None:
    """Every chunk is verified before a file gets its name."""
    source, manifest = stored_folder(tmp_path / "stored")
    (source / "deep" / "b").write_bytes(b"b" * 999 + b"?")
    target = tmp_path / "target"

    with pytest.raises(IntegrityError):
        await place_files(source, target, manifest, make, BufferPool(1 << 20))

    assert not (target / "deep" / "b").exists()
    assert [file.name for file in target.rglob("*") if file.is_file()] == ["a"]


async def test_a_clone_is_independent_or_impossible(tmp_path: Path) -> None:
    """Where the file system cannot share blocks, `clone` says so and leaves nothing."""
    (tmp_path / "a").write_bytes(b"x" * 10)

    if clone(tmp_path / "a", tmp_path / "b"):
        (tmp_path / "b").write_bytes(b"changed")
        assert (tmp_path / "a").read_bytes() == b"x" * 10
    else:
        assert os.listdir(tmp_path) == ["a"]
