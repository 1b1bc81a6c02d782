"""Takes away what Linux has and macOS lacks, before anything can look for it.

With ``HFTRANSFER_AS_MACOS=1`` `conftest` runs this in the process of the tests, and puts this
folder on the PYTHONPATH of those that they start. It imitates the absence of functions and
constants, not the behaviour of a kernel. ``tox -e as-macos`` runs the fast tests like this.
"""

from __future__ import annotations

import builtins
import fcntl
import io
import mmap
import os
import resource
import selectors
import socket
from typing import Any

# Names that Python defines on Linux and not on macOS 14.
_MISSING: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        os,
        (
            *("O_DIRECT", "O_TMPFILE", "O_NOATIME", "O_PATH", "O_LARGEFILE", "O_RSYNC"),
            *("copy_file_range", "eventfd", "fdatasync", "getrandom", "memfd_create", "pidfd_open"),
            *("pipe2", "posix_fadvise", "posix_fallocate", "sched_getaffinity", "splice"),
            *("sched_setaffinity", "setns", "unshare", "getxattr", "setxattr", "listxattr"),
            *(name for name in dir(os) if name.startswith(("POSIX_FADV_", "RWF_", "EFD_", "MFD_"))),
        ),
    ),
    (resource, ("RUSAGE_THREAD", "prlimit")),
    (
        socket,
        (
            *("SOCK_CLOEXEC", "SOCK_NONBLOCK", "TCP_CORK", "TCP_QUICKACK", "TCP_USER_TIMEOUT"),
            *("TCP_INFO", "TCP_DEFER_ACCEPT", "TCP_CONGESTION", "SO_INCOMING_CPU"),
        ),
    ),
    (
        mmap,
        tuple(
            name
            for name in dir(mmap)
            if name.startswith("MAP_") and name not in ("MAP_ANON", "MAP_ANONYMOUS", "MAP_PRIVATE")
            if name not in ("MAP_SHARED", "MAP_NORESERVE")
        )
        + tuple(
            name
            for name in dir(mmap)
            if name.startswith("MADV_")
            if name not in ("MADV_NORMAL", "MADV_RANDOM", "MADV_SEQUENTIAL", "MADV_WILLNEED")
            if name not in ("MADV_DONTNEED", "MADV_FREE")
        ),
    ),
    (fcntl, tuple(name for name in dir(fcntl) if name.startswith(("F_OFD_", "F_SEAL_", "F_ADD_")))),
)
# Files of the kernel that the package reads; the tests read others.
_MISSING_FILES = ("/proc/meminfo", "/proc/self/cgroup", "/proc/cpuinfo", "/sys/")


def _remove() -> None:
    for module, names in _MISSING:
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
            if name in getattr(module, "__all__", ()):
                module.__all__.remove(name)
    # asyncio's loops then do without epoll; trio, which takes it for granted on Linux, keeps it.
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[misc,assignment]
    real_open = builtins.open

    def open_(file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, (str, os.PathLike)) and os.fspath(file).startswith(_MISSING_FILES):
            raise FileNotFoundError(2, "No such file or directory", str(file))
        return real_open(file, *arguments, **options)

    # Not a plain function: Python 3.10's pathlib has `io.open` as an attribute of a class.
    builtins.open = io.open = staticmethod(open_)


if os.environ.get("HFTRANSFER_AS_MACOS") == "1" and hasattr(os, "posix_fadvise"):
    _remove()
