"""Files of a local datastore cloned or linked to another path of the same machine.

Where the file system can share blocks between files (`FICLONE`: btrfs, xfs, …) a clone
takes neither time nor space, and an edit of it does not reach the datastore. Links are made
only where the user asked for them. Every chunk is verified before a file gets its name.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread

from hftransfer import FileManifest, IntegrityError, Manifest
from hftransfer._io.atomic_write import link_atomically, move_file, temporary_name
from hftransfer._io.buffers import BufferPool
from hftransfer._io.regular_file import create_exclusive
from hftransfer.errors import single_error
from metaflow_extensions.hftransfer.plugins.engine.reuse_sink import chunk_digests

Make = Callable[[Path, Path], bool]
"""Makes its second argument from its first; False if the file system cannot."""

_FICLONE = 0x40049409  # ioctl_ficlonerange(2)
_UNSUPPORTED = (
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.EPERM,
)
_FILES_AT_ONCE = 4


def clone(source: Path, target: Path) -> bool:
    """Make `target`, which must not exist, share the blocks of `source`; False if impossible."""
    with open(source, "rb") as original:
        copy = create_exclusive(target)
        try:
            fcntl.ioctl(copy, _FICLONE, original.fileno())
        except OSError as error:
            target.unlink()
            if error.errno in _UNSUPPORTED:
                return False
            raise
        finally:
            os.close(copy)
    return True


def link(source: Path, target: Path) -> bool:
    """Make `target`, which must not exist, a symbolic link to `source`."""
    link_atomically(os.fspath(source), target, folder=target.parent)
    return True


async def place_files(
    source: Path, target: Path, manifest: Manifest, make: Make, buffers: BufferPool
) -> bool:
    """Clone or link all files of `manifest` from one folder to another.

    Parameters
    ----------
    source, target : Path
        Folders. Existing files of `target` with the same names are replaced.
    manifest : Manifest
        The expected content of the files.
    make : callable
        `clone` or `link`.
    buffers : BufferPool
        The memory through which the files are verified.

    Returns
    -------
    bool
        False if the file system cannot do it; nothing was changed then.

    Raises
    ------
    IntegrityError
        If a file is missing or damaged.
    """
    names = sorted(manifest.files)

    async def place(name: str) -> bool:
        return await _place(source / name, target / name, manifest.files[name], make, buffers)

    # The first file shows whether the file system supports it.
    if not names or not await place(names[0]):
        return False
    pending = iter(names[1:])
    are_placed = True

    async def place_some() -> None:
        nonlocal are_placed
        for name in pending:
            are_placed = await place(name) and are_placed

    with single_error():
        async with anyio.create_task_group() as tasks:
            for _ in range(_FILES_AT_ONCE):
                tasks.start_soon(place_some)
    return are_placed


async def _place(
    source: Path, target: Path, manifest: FileManifest, make: Make, buffers: BufferPool
) -> bool:
    temporary = target.with_name(temporary_name())
    try:
        if not await anyio.to_thread.run_sync(_make_below, source, temporary, make):
            return False
        chunks = await chunk_digests(
            temporary, manifest.size, manifest.chunk_size, buffers, follow=True
        )
        if chunks != manifest.chunks:
            raise IntegrityError(f"{source} does not match its manifest")
        await anyio.to_thread.run_sync(move_file, temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _make_below(source: Path, target: Path, make: Make) -> bool:
    """Make `target` and the folders above it."""
    if not source.is_file():
        raise IntegrityError(f"{source} is missing")
    target.parent.mkdir(parents=True, exist_ok=True)
    return make(source, target)
