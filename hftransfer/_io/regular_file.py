"""Opens files for writing without following links that somebody left at their names.

The names of partial files, journals and lock files can be guessed. A symbolic link, a FIFO or a
second hard link of another file at such a name would redirect what is written there, so they are
refused: ``O_NOFOLLOW``, then a look at the open descriptor. New files are created exclusively.

Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

import errno
import os
import stat

__all__ = ("UnsafeFileError", "create_exclusive", "open_regular")

# A FIFO without a reader, or a terminal, must not block the open or become controlling.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
# What open(2) reports for a symbolic link (FreeBSD: EMLINK), a folder, a socket and a device.
_NOT_REGULAR = frozenset({errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.ENODEV})


class UnsafeFileError(OSError):
    """The name belongs to something that must not be written, such as a symbolic link."""


def open_regular(
    path: str | os.PathLike[str], flags: int, mode: int = 0o666, *, allow_hard_links: bool = False
) -> int:
    """Open a regular file, by default one that only `path` names; return the descriptor.

    Args:
        path: of the file. Its folders may be symbolic links, the file itself may not.
        flags: as of ``open(2)``; ``O_NOFOLLOW`` and ``O_CLOEXEC`` are added.
        mode: permissions of a file that this creates, less the umask. Default 0o666.
        allow_hard_links: accept a file with other names, because nothing is written to it.
            Default False.

    Raises:
        UnsafeFileError: if it is a symbolic link, not a regular file, has another hard link, or,
            in a folder like /tmp where every user may create files, belongs to another user.
        OSError: if it cannot be opened for another reason.
    """
    try:
        fd = os.open(path, flags | _FLAGS, mode)
    except OSError as error:
        if error.errno in _NOT_REGULAR:
            raise _unsafe(path, "it is not a regular file") from error
        raise
    try:
        _check(path, os.fstat(fd), allow_hard_links=allow_hard_links)
    except BaseException:
        os.close(fd)
        raise
    return fd


def create_exclusive(path: str | os.PathLike[str], mode: int = 0o666) -> int:
    """Create a file that must not exist, and its folder; return a descriptor to read and write it.

    Raises:
        FileExistsError: if there is a file or a link of that name.
        OSError: if it cannot be created for another reason.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, mode)


def _check(path: str | os.PathLike[str], status: os.stat_result, *, allow_hard_links: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _unsafe(path, "it is not a regular file")
    if status.st_nlink > 1 and not allow_hard_links:
        raise _unsafe(path, "it has another hard link")
    # Linux refuses the same for O_CREAT if `fs.protected_regular` is set. Elsewhere the owner says
    # nothing: NFS may show another one, and members of a group share caches.
    if status.st_uid != os.geteuid():
        folder = os.stat(os.path.dirname(os.path.abspath(path)))
        if folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH:
            raise _unsafe(path, "it belongs to another user")


def _unsafe(path: str | os.PathLike[str], reason: str) -> UnsafeFileError:
    return UnsafeFileError(errno.ELOOP, f"refused to write to it: {reason}", os.fspath(path))
