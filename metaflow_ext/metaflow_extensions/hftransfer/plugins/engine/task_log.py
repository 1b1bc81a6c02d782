"""Lines for the log of the running task, outside of ``@huggingface_hub``."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable

_LOGGED = "_HFTRANSFER_LOGGED"  # an environment variable


def log_line(message: str) -> None:
    """Write one line to stderr, which Metaflow adds to the log of the task."""
    print(f"[hftransfer] {message}", file=sys.stderr)  # noqa: T201


def log_once(message: str) -> None:
    """Write one line, unless this process or one of those that started it has written it.

    A run starts a process for each task, and all of them find the same.
    """
    mark = hashlib.sha256(message.encode()).hexdigest()[:12]
    logged = os.environ.get(_LOGGED, "").split()
    if mark not in logged:
        os.environ[_LOGGED] = " ".join([*logged, mark])
        log_line(message)


def log_removed(remove: Callable[[], list[str]]) -> None:
    """Call `remove`, and log the keys that it returns, one line each; never fails.

    Parameters
    ----------
    remove : callable
        Removes unfinished uploads of earlier attempts, and returns their keys.
    """
    try:
        removed = remove()
    except Exception as error:  # noqa: BLE001 - what remains costs space only
        log_line(
            f"Could not look for unfinished uploads of earlier attempts: {type(error).__name__}"
        )
        return
    for key in removed:
        log_line(f"Removed the unfinished upload of an earlier attempt of this task: {key}")
