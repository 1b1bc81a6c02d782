"""The layout of a ``local_dir``: paths and metadata."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hftransfer._hub_compat.local_dir import DownloadMetadata, LocalDir
from hftransfer.errors import LocationError

_COMMIT = "c" * 40
_SHA256 = "5" * 64


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", ""])
def test_a_path_outside_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    """Paths come from a server, which must not choose where files are written."""
    with pytest.raises(LocationError):
        LocalDir(tmp_path).file(path)


def test_written_metadata_can_be_read(tmp_path: Path) -> None:
    """Commit and etag are read as written, as long as the file is not changed."""
    folder = LocalDir(tmp_path)
    folder.create()
    folder.file("config.json").write_bytes(b"{}")

    folder.write_metadata("config.json", _COMMIT, _SHA256)

    assert folder.read_metadata("config.json") == DownloadMetadata(_COMMIT, _SHA256)
    assert (tmp_path / ".cache" / "huggingface" / ".gitignore").read_text() == "*"


def test_metadata_of_a_changed_file_is_ignored(tmp_path: Path) -> None:
    """A file that is newer than its metadata was changed after the download."""
    folder = LocalDir(tmp_path)
    folder.file("config.json").write_bytes(b"{}")
    folder.write_metadata("config.json", _COMMIT, _SHA256)
    later = folder.file("config.json").stat().st_mtime + 10

    os.utime(folder.file("config.json"), (later, later))

    assert folder.read_metadata("config.json") is None


@pytest.mark.parametrize("text", ["", "one line", f"{_COMMIT}\n{_SHA256}\nyesterday\n"])
def test_damaged_metadata_is_removed(tmp_path: Path, text: str) -> None:
    """The file then counts as one without metadata."""
    folder = LocalDir(tmp_path)
    folder.file("config.json").write_bytes(b"{}")
    folder.metadata("config.json").parent.mkdir(parents=True)
    folder.metadata("config.json").write_text(text)

    assert folder.read_metadata("config.json") is None
    assert not folder.metadata("config.json").exists()
