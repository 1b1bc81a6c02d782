"""What tests of `snapshot_download` and `hf_hub_download` share."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub

from hftransfer.testing import RandomFile, Repo

__all__ = (
    "DEADLINE",
    "FILES",
    "HUB_VERSION",
    "MODEL",
    "REPO",
    "contents",
    "expected",
)

REPO = "acme/tiny"
MODEL = RandomFile(3_000_000, seed=7)
FILES: dict[str, bytes | Path | RandomFile] = {
    "config.json": b"{}",
    "sub/notes.txt": b"first",
    "model.safetensors": MODEL,
}
HUB_VERSION = tuple(int(part) for part in huggingface_hub.__version__.split(".")[:2])
"""Major and minor version of the installed huggingface_hub."""
DEADLINE = 30.0
"""Seconds after which a wait for an event or a process fails its test."""


def contents(folder: str | Path) -> dict[str, bytes]:
    """Return the files of a folder by relative path, without those below ``.cache``."""
    root = Path(folder)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".cache" not in path.relative_to(root).parts
    }


def expected(repo: Repo, revision: str = "main") -> dict[str, bytes]:
    """Return the files of a revision as they are on the Hub."""
    return {path: blob.read_bytes() for path, blob in repo.find(revision).files.items()}
