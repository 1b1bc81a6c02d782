"""Files that appear under their name complete: written under a temporary name, then renamed.

The temporary name is random and ends in ``.incomplete``. Everything here blocks and belongs in
worker threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hftransfer._io.file_lock import lock_descriptor

__all__ = (
    "SUFFIX",
    "create_exclusive",
    "open_atomically",
    "replace_atomically",
    "sync_folder",
    "temporary_name",
    "write_atomically",
    "write_fully",
)

SUFFIX = ".incomplete"
"""End of the names of all files that are not complete."""


def temporary_name(prefix: str = "") -> str:
    """Return ``<prefix>.<32 random hex digits>.incomplete``."""
    return f"{prefix}.{os.urandom(16).hex()}{SUFFIX}"


def create_exclusive(path: str | os.PathLike[str]) -> int:
    """Create a file that must not exist, and its folder; return a descriptor to read and write it.

    Raises:
        FileExistsError: if there is a file of that name.
        OSError: if it cannot be created for another reason.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o666)


@contextmanager
def replace_atomically(
    target: Path, *, folder: Path | None = None, prefix: str = ""
) -> Iterator[str]:
    """Give the block a temporary path; rename what the block creates there to `target`.

    A file that was at `target` is replaced. If the block raises, `target` stays as it was and
    the temporary file is deleted.

    Args:
        target: the final path. Its folder is created if it is missing.
        folder: where the temporary file is, on the same file system. Default: that of `target`.
        prefix: of the temporary name. Default: none.

    Raises:
        OSError: if the rename fails.
    """
    temporary = os.path.join(folder or target.parent, temporary_name(prefix))
    try:
        yield temporary
        try:
            os.replace(temporary, target)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


@contextmanager
def open_atomically(
    target: Path, *, folder: Path | None = None, prefix: str = "", fsync: bool = False
) -> Iterator[int]:
    """Give the block the descriptor of a new file, which becomes `target` after the block.

    The file is locked until it has its final name, so that `remove_stale_partials` in another
    process leaves it alone. The arguments are those of `write_atomically`.

    Raises:
        OSError: if the file cannot be created or renamed.
    """
    fd = -1
    try:
        with replace_atomically(target, folder=folder, prefix=prefix) as temporary:
            fd = create_exclusive(temporary)
            with suppress(OSError):  # a file system without locks
                lock_descriptor(fd)
            yield fd
            if fsync:
                os.fsync(fd)
    finally:
        if fd >= 0:
            os.close(fd)
    if fsync:
        sync_folder(target.parent)


def write_atomically(
    target: Path,
    data: bytes | memoryview,
    *,
    folder: Path | None = None,
    prefix: str = "",
    fsync: bool = False,
) -> None:
    """Replace the content of `target` by `data` in one step.

    Args:
        target: the final path. Missing folders are created.
        data: the whole content.
        folder: where the temporary file is, on the same file system. Default: that of `target`.
        prefix: of the temporary name. Default: none.
        fsync: flush the file to the disk before the rename, and the folder after it.
            Default False.

    Raises:
        OSError: if it cannot be written.
    """
    with open_atomically(target, folder=folder, prefix=prefix, fsync=fsync) as fd:
        write_fully(fd, memoryview(data))


def write_fully(fd: int, data: memoryview) -> None:
    """Write all of `data`: one ``write(2)`` may take only a part."""
    written = 0
    while written < len(data):
        written += os.write(fd, data[written:])


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a rename in it survives a power failure."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
