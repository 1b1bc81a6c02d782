"""Records that an upload is being created, for the moment in which its id is not known.

The store creates an upload before its response arrives here. If the process is killed in between,
or the response is lost, the upload has no lock file (`upload_lock`) and no part, and nothing tells
that it is ours. So a file is written before the request: it has the time in its status and the
process in its name. An upload without parts that was begun soon after it belongs to it, unless a
living process has written such a file for the same key, too.

All functions here block, so run them in worker threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hftransfer._core.digests import chunk_digest
from hftransfer._io.atomic_write import move_file
from hftransfer._io.process_identity import is_token_of_dead_process, own_token
from hftransfer._io.regular_file import create_exclusive
from hftransfer._io.state_folder import state_folder

__all__ = ("SUFFIX", "UploadIntent", "UploadIntents")

SUFFIX = ".creating"
_LOST = ".lost"
# Seconds from the file to the upload: attempts to create it may be repeated, and the clocks of
# store and machine tick differently.
_EARLIEST, _LATEST = -5.0, 30.0


class UploadIntent:
    """The record of one creation by this process.

    Args:
        bucket, key: of the object.
    """

    def __init__(self, bucket: str, key: str) -> None:
        self._path = _folder() / f"{_name(bucket, key)}.{own_token()}{SUFFIX}"
        with suppress(OSError):  # the upload works without it
            os.close(create_exclusive(self._path, 0o600))

    def remove(self) -> None:
        """Forget the creation: the upload has a lock file, or the store has refused it."""
        self._path.unlink(missing_ok=True)

    def mark_lost(self) -> None:
        """Record that the store may have created an upload that this process does not know."""
        with suppress(OSError):
            move_file(self._path, self._path.with_name(self._path.name + _LOST))


class UploadIntents:
    """The records of one key, as they are now.

    Args:
        bucket, key: of the object.
    """

    def __init__(self, bucket: str, key: str) -> None:
        self._now = time.time()
        self._live: list[float] = []
        self._dead: list[float] = []
        self._paths: list[Path] = []
        for path in _folder().glob(f"{_name(bucket, key)}.*{SUFFIX}*"):
            with suppress(OSError):
                age = self._now - path.stat().st_mtime
                if _is_of_living_process(path):
                    self._live.append(age)
                else:
                    self._dead.append(age)
                    self._paths.append(path)

    def cover(self, age: float | None) -> bool:
        """Return True if an upload without parts that was begun `age` seconds ago is an own one."""
        return age is not None and _any_near(self._dead, age) and not _any_near(self._live, age)

    def remove(self) -> None:
        """Delete the records of dead processes, once their uploads are taken."""
        for path in self._paths:
            path.unlink(missing_ok=True)


def _any_near(ages: Sequence[float], age: float) -> bool:
    return any(_EARLIEST <= recorded - age <= _LATEST for recorded in ages)


def _is_of_living_process(path: Path) -> bool:
    if path.name.endswith(_LOST):
        return False
    token = path.name.removesuffix(SUFFIX).rpartition(".")[2]
    return not is_token_of_dead_process(token)


def _name(bucket: str, key: str) -> str:
    return chunk_digest(memoryview(f"{bucket}\0{key}".encode()))


def _folder() -> Path:
    return state_folder("uploads")
