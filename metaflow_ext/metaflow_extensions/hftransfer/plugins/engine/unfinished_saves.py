"""Models that are being saved, noted down for the retry of a task that is killed meanwhile.

A model's key is made anew with every save, so that of one that was never finished nobody
knows to whom it belonged. In a task that has attempts left, a small document says what is
being saved; the next attempt removes what those before did not finish.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.engine.s3_settings import NotForEngine

_ARTIFACTS = "/models/artifacts/"
_UNFINISHED = "/models/unfinished/"
_ROOT = "mf.models"

_task: tuple[str, int] | None = None


def enter_task(pathspec: str, attempt: int, *, may_retry: bool) -> None:
    """Note down what is saved from now on, if the task has another attempt.

    Parameters
    ----------
    pathspec : str
        Of the task.
    attempt : int
    may_retry : bool
    """
    global _task
    _task = (pathspec, attempt) if may_retry else None


@contextmanager
def noted(access: DatastoreAccess, key: str, large: Iterable[str]) -> Iterator[None]:
    """Have a note of the model `key` as long as its files are on their way.

    Parameters
    ----------
    access : DatastoreAccess
    key : str
        Relative to the root.
    large : iterable of str
        Paths below `key` of what goes up in parts; empty for `key` itself.
    """
    root, found, name = key.partition(_ARTIFACTS)
    if _task is None or not found:
        yield
        return
    pathspec, attempt = _task
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    note = f"{root}{_UNFINISHED}{pathspec}/{attempt}.{digest}.json"
    access.write_document(note, {"key": key, "large": list(large)})
    try:
        yield  # after a failure that a retry follows the note is of use
    except NotForEngine:
        access.delete([note])
        raise
    access.delete([note])


def remove_unfinished(access: DatastoreAccess, pathspec: str, attempt: int) -> list[str]:
    """Remove what attempts of the task before `attempt` began to save and did not finish.

    Returns
    -------
    list of str
        The keys of those models.
    """
    folder = f"{_ROOT}{_UNFINISHED}{pathspec}"
    removed = []
    for name in access.names_in(folder):
        number = name.partition(".")[0]
        if not number.isdigit() or int(number) >= attempt:
            continue
        note = f"{folder}/{name}"
        document = access.read_document(note) or {}
        key = str(document.get("key", ""))
        described = key.replace(_ARTIFACTS, "/models/artifact_metadata/", 1) + ".metadata"
        if _ARTIFACTS in key and not access.is_there(described):
            exact = [f"{key}/{path}".rstrip("/") for path in document.get("large", ())]
            access.discard(key, exact)
            removed.append(key)
        access.delete([note])
    return removed


def enter_and_clean(backend: Any, pathspec: str, attempt: int, *, may_retry: bool) -> None:
    """Begin a task, in the log of which is said what was removed; never fails."""
    enter_task(pathspec, attempt, may_retry=may_retry)
    if attempt == 0:
        return
    try:
        removed = remove_unfinished(DatastoreAccess(backend), pathspec, attempt)
    except Exception as error:  # noqa: BLE001 - what is left costs space, and is no reason to fail
        removed = []
        _print(f"Could not look for what an earlier attempt left: {type(error).__name__}")
    for key in removed:
        _print(f"Removed what an earlier attempt of this task left of {key}")


def _print(message: str) -> None:
    print(f"[hftransfer] {message}", file=sys.stderr)  # noqa: T201 - the log of the task
