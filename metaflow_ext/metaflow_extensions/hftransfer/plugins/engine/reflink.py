"""Files of a local datastore brought to another place of the same machine, without the engine.

Where the file system can share blocks between files (`FICLONE`: btrfs, xfs, …) a copy
costs nothing and an edit of it does not reach the datastore. Links are made only where the
user asked for them. Both are checked chunk by chunk like any other load.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from hftransfer import IntegrityError, Manifest
from metaflow_extensions.hftransfer.plugins.engine.reuse_sink import chunk_digests

if TYPE_CHECKING:
    from hftransfer import FileManifest

_FICLONE = 0x40049409
_CANNOT = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM)
_THREADS = 4


def clone(source: Path, target: Path) -> bool:
    """Make `target`, which must not exist, share the blocks of `source`; False if impossible."""
    with open(source, "rb") as original, open(target, "xb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
        except OSError as error:
            target.unlink()
            if error.errno in _CANNOT:
                return False
            raise
    return True


def link(source: Path, target: Path) -> bool:
    """Make `target`, which must not exist, a symbolic link to `source`."""
    target.symlink_to(source)
    return True


def place_files(
    source: Path,
    target: Path,
    manifest: Manifest,
    make: Callable[[Path, Path], bool],
) -> bool:
    """Bring all files of `manifest` from the folder `source` to the folder `target`.

    Parameters
    ----------
    source, target : Path
        Folders.
    manifest : Manifest
        What the files must be.
    make : callable
        `clone` or `link`.

    Returns
    -------
    bool
        False if `make` cannot work here; nothing was changed then.

    Raises
    ------
    IntegrityError
        If a file is missing or damaged.
    """
    return _place_all(source, target, manifest.files, make)


def _place_all(
    source: Path,
    target: Path,
    files: Mapping[str, FileManifest],
    make: Callable[[Path, Path], bool],
) -> bool:
    names = sorted(files)

    def place(name: str) -> bool:
        return _place(source / name, target / name, files[name], make)

    if not names or not place(names[0]):
        return False
    with ThreadPoolExecutor(_THREADS) as pool:
        return all(list(pool.map(place, names[1:])))


def _place(
    source: Path, target: Path, manifest: FileManifest, make: Callable[[Path, Path], bool]
) -> bool:
    if not source.is_file():
        raise IntegrityError(f"{source} is missing")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}.incomplete")
    try:
        if not make(source, temporary):
            return False
        found = chunk_digests(temporary, manifest.size, manifest.chunk_size, follow=True)
        if found != manifest.chunks:
            raise IntegrityError(f"{source} is not what was stored")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return True
