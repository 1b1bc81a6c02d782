"""File systems that are slow or lack something: faults in the calls of this process."""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import pathlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from unittest import mock

__all__ = ["SlowFileSystem", "no_flock"]

# Functions of `os` that look at a path or change a folder: on NFS, EFS or Lustre each is at least
# one round trip to the server. Those that take only a descriptor are answered by the client.
_METADATA_CALLS = (
    "access",
    "chmod",
    "link",
    "listdir",
    "lstat",
    "mkdir",
    "open",
    "readlink",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "stat",
    "statvfs",
    "symlink",
    "truncate",
    "unlink",
    "utime",
)
_TWO_PATHS = ("link", "rename", "replace", "symlink")


class SlowFileSystem:
    """Makes each metadata call on the paths below a folder take a time, as a file server does.

    While this context manager is entered, the functions of `os` that take a path, ``open`` and
    `fcntl.flock` first sleep in the thread that calls them, without the GIL and without using a
    core. Calls side by side sleep side by side. The whole process is affected, and no other one;
    reads and writes of open files are not. Example::

        with SlowFileSystem(tmp_path, delay=0.005) as slow:
            huggingface_hub.snapshot_download("acme/tiny", cache_dir=tmp_path)
        print(slow.calls.total(), "calls, the most frequent:", slow.calls.most_common(3))

    Args:
        folder: whose files are slow, with all below it.
        delay: of each call, seconds. Default 0.005, as between zones of a cloud.
        sleep: waits that long. Default `time.sleep`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        delay: float = 0.005,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._root = os.path.abspath(folder)
        self._delay = delay
        self._sleep = sleep
        self._patches: list[Any] = []
        self._added: list[tuple[set[Any], list[str]]] = []
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        """How often each function was called on the folder; ``open`` counts both kinds."""

    def __enter__(self) -> SlowFileSystem:
        self._added = [
            (functions, [name for name in _METADATA_CALLS if getattr(os, name) in functions])
            for functions in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks)
        ]
        self._patches = [
            mock.patch.object(os, name, self._slowed(name, getattr(os, name)))
            for name in _METADATA_CALLS
        ]
        slow_open = self._slowed("open", builtins.open)
        self._patches += [
            mock.patch.object(builtins, "open", slow_open),
            mock.patch.object(io, "open", slow_open),
            mock.patch.object(fcntl, "flock", self._slowed("flock", fcntl.flock, always=True)),
        ]
        # Before Python 3.11 pathlib keeps functions of its own.
        accessor = getattr(pathlib, "_normal_accessor", None)
        self._patches += [
            mock.patch.object(accessor, name, self._slowed(name, getattr(accessor, name)))
            for name in (*_METADATA_CALLS, "open")
            if hasattr(accessor, name)
        ]
        for patch in self._patches:
            patch.start()
        # By these sets a caller finds out which arguments a function takes.
        for functions, names in self._added:
            functions.update(getattr(os, name) for name in names)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for functions, names in self._added:
            functions.difference_update(getattr(os, name) for name in names)
        for patch in reversed(self._patches):
            patch.stop()

    def _slowed(
        self, name: str, function: Callable[..., Any], *, always: bool = False
    ) -> Callable[..., Any]:
        paths = 2 if name in _TWO_PATHS else 1

        def slowed(*arguments: Any, **named: Any) -> Any:
            if always or any(map(self._is_below, arguments[:paths])):
                with self._lock:
                    self.calls[name] += 1
                self._sleep(self._delay)
            return function(*arguments, **named)

        return slowed

    def _is_below(self, path: object) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False  # a descriptor, or bytes, which nothing here uses
        text = os.path.abspath(path)
        return text == self._root or text.startswith(self._root + os.sep)


@contextmanager
def no_flock(code: int = errno.ENOSYS) -> Iterator[None]:
    """Make every `fcntl.flock` of this process fail, as on a file system without locks.

    Args:
        code: of the error. Default ENOSYS. Servers and FUSE return many others: ENOLCK,
            EOPNOTSUPP, EINVAL, EIO, ESTALE; and EACCES or EAGAIN, which mean elsewhere that
            another process holds the lock.

    Yields:
        Nothing; the error ends with the block.
    """

    def flock(fd: Any, operation: int) -> None:
        if operation & fcntl.LOCK_UN:
            return
        raise OSError(code, os.strerror(code))

    with mock.patch.object(fcntl, "flock", flock):
        yield
