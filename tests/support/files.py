"""Folders of files: making one, and reading all files of one."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ("descriptors", "flip_bit", "make_tree", "tree")


def descriptors() -> set[str]:
    """Return the open file descriptors of this process."""
    found = os.listdir("/proc/self/fd")
    return {fd for fd in found if os.path.exists(f"/proc/self/fd/{fd}")}


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below `folder` by its relative path, sorted."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() for name, path in sorted(files.items()) if path.is_file()}


def make_tree(folder: Path) -> Path:
    """Make a folder with a file of 300 KiB, a file of 4 bytes in a folder, and an empty file."""
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(os.urandom(300 * 1024))
    (folder / "sub" / "b.txt").write_bytes(b"text")
    (folder / "empty").touch()
    return folder


def flip_bit(path: Path, offset: int = 0) -> None:
    """Invert the lowest bit of the byte at `offset` of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
