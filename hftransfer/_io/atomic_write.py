"""Files that appear under their name complete: written under a temporary name, then renamed.

The temporary name is new, identifies the process that writes the file and ends in
``.incomplete``. Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hftransfer._io.process_identity import own_token
from hftransfer._io.regular_file import create_exclusive

__all__ = (
    "SUFFIX",
    "copy_atomically",
    "create_if_missing",
    "link_atomically",
    "move_file",
    "open_atomically",
    "replace_atomically",
    "sync_folder",
    "temporary_name",
    "write_atomically",
    "write_fully",
)

SUFFIX = ".incomplete"
"""End of the names of all files that are not complete."""
_COPY_WINDOW = 1 << 20  # bytes


def temporary_name(prefix: str = "") -> str:
    """Return ``<prefix>.<32 hex digits>.incomplete``; the digits identify this process.

    By them `remove_stale_partials` of another process recognises a file whose writer is dead.
    """
    return f"{prefix}.{own_token()}{SUFFIX}"


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

    The arguments are those of `write_atomically`.

    Raises:
        OSError: if the file cannot be created or renamed.
    """
    fd = -1
    try:
        with replace_atomically(target, folder=folder, prefix=prefix) as temporary:
            fd = create_exclusive(temporary)
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


def create_if_missing(path: Path, data: bytes) -> bool:
    """Write a new file in place, which saves the rename of `write_atomically`.

    For files whose readers ignore incomplete content. A link at `path` is not followed.

    Returns:
        False if there is a file of that name; it was not changed.

    Raises:
        OSError: if it cannot be written; what was written is deleted.
    """
    try:
        fd = create_exclusive(path)
    except FileExistsError:
        return False
    try:
        write_fully(fd, memoryview(data))
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(fd)
    return True


def link_atomically(content: str, link: Path, *, folder: Path, prefix: str = "") -> None:
    """Make `link` a symbolic link with the text `content`; replace what was there.

    Args:
        content: the target as written into the link.
        link: the final path. Its folder is created if it is missing.
        folder, prefix: of a temporary link, as in `write_atomically`.

    Raises:
        OSError: if it cannot be made, for example on a file system without symbolic links.
    """
    try:
        try:
            os.symlink(content, link)
        except FileNotFoundError:
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(content, link)
    except FileExistsError:
        with replace_atomically(link, folder=folder, prefix=prefix) as temporary:
            os.symlink(content, temporary)


def copy_atomically(source: Path, target: Path, *, folder: Path, prefix: str = "") -> None:
    """Replace `target` by a copy of the content of `source`.

    The other arguments are those of `write_atomically`.

    Raises:
        OSError: if it cannot be copied.
    """
    import shutil  # slow to import, and rarely needed

    with (
        open(source, "rb", buffering=0) as reader,
        open_atomically(target, folder=folder, prefix=prefix) as fd,
        open(fd, "wb", closefd=False) as writer,
    ):
        shutil.copyfileobj(reader, writer, _COPY_WINDOW)


def move_file(source: Path, target: Path) -> None:
    """Rename a complete file; what was at `target` is replaced, a link as such.

    Raises:
        OSError: if it fails, for example between two file systems.
    """
    os.replace(source, target)


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
