"""`hftransfer.stores.s3.upload_intent`: which uploads of unknown id are own ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hftransfer.stores.s3.upload_intent import UploadIntent, UploadIntents


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "hftransfer" / "uploads"


def _begin_and_die() -> None:
    code = "from hftransfer.stores.s3.upload_intent import UploadIntent; UploadIntent('b', 'k')"
    subprocess.run([sys.executable, "-c", code], check=True)


def _set_age(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_an_upload_that_a_dead_process_began_is_an_own_one(folder: Path) -> None:
    """One of the same key, begun at that time or soon after; not one of another time or key."""
    _begin_and_die()
    _set_age(folder, 1000)
    intents = UploadIntents("b", "k")

    assert intents.cover(1000)
    assert intents.cover(980)
    assert not intents.cover(1030)
    assert not intents.cover(500)
    assert not intents.cover(None)
    assert not UploadIntents("b", "other").cover(1000)


def test_a_living_process_protects_its_upload(folder: Path) -> None:
    """Even if a dead one has begun an upload of the key at the same time."""
    _begin_and_die()
    own = UploadIntent("b", "k")

    assert not UploadIntents("b", "k").cover(0)
    own.remove()
    assert UploadIntents("b", "k").cover(0)


def test_a_lost_creation_can_be_claimed_by_its_own_process(folder: Path) -> None:
    """The response was lost, so the process itself does not know the id."""
    intent = UploadIntent("b", "k")
    assert not UploadIntents("b", "k").cover(0)
    intent.mark_lost()
    intents = UploadIntents("b", "k")

    assert intents.cover(0)
    intents.remove()
    assert list(folder.iterdir()) == []
