"""Records of the models that are being saved, for the retry of a task that is killed.

Every save of a model has a new key, so the key of an unfinished one does not say which task
it belongs to. In a task that has attempts left, a small document names the model while it is
being saved. The next attempt removes what the earlier ones did not finish.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.engine.manifests import metadata_path
from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine
from metaflow_extensions.hftransfer.plugins.engine.task_log import log_removed

_ARTIFACTS = "/models/artifacts/"
_UNFINISHED = "/models/unfinished/"
_ROOT = "mf.models"

_task: tuple[str, int] | None = None
"""Path and attempt of the running task; None if it has no attempt left."""


def enter_task(pathspec: str, attempt: int, *, may_retry: bool) -> None:
    """Record what is saved from now on, if the task has another attempt.

    Parameters
    ----------
    pathspec : str
        ``flow/run/step/task``.
    attempt : int
        Counted from 0.
    may_retry : bool
        True if the task has another attempt.
    """
    global _task
    _task = (pathspec, attempt) if may_retry else None


@contextmanager
def recorded(access: DatastoreAccess, key: str, large: Iterable[str]) -> Iterator[None]:
    """Keep a record of the model `key` while its files are being uploaded.

    Parameters
    ----------
    access : DatastoreAccess
    key : str
        Relative to the root.
    large : iterable of str
        Paths below `key` of the files that are uploaded in parts; an empty path for `key`
        itself.
    """
    root, found, name = key.partition(_ARTIFACTS)
    if _task is None or not found:
        yield
        return
    pathspec, attempt = _task
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    record = f"{root}{_UNFINISHED}{pathspec}/{attempt}.{digest}.json"
    access.write_document(record, {"key": key, "large": list(large)})
    try:
        yield  # after any other failure the record stays, for the next attempt
    except UnsupportedByEngine:
        access.delete([record])
        raise
    access.delete([record])


def remove_unfinished(access: DatastoreAccess, pathspec: str, attempt: int) -> list[str]:
    """Remove the models that attempts before `attempt` began to save and did not finish.

    Returns
    -------
    list of str
        The keys of those models.
    """
    folder = f"{_ROOT}{_UNFINISHED}{pathspec}"
    removed = []
    for name in access.list_names(folder):
        number = name.partition(".")[0]
        if not number.isdigit() or int(number) >= attempt:
            continue
        record = f"{folder}/{name}"
        document = access.read_document(record) or {}
        key = str(document.get("key", ""))
        if _ARTIFACTS in key and not access.exists(metadata_path(key)):
            exact = [f"{key}/{path}".rstrip("/") for path in document.get("large", ())]
            access.delete_tree(key, exact)
            removed.append(key)
        access.delete([record])
    return removed


def enter_and_clean(backend: Any, pathspec: str, attempt: int, *, may_retry: bool) -> None:
    """Begin a task, and log what of its earlier attempts was removed; never fails.

    Parameters
    ----------
    backend : DataStoreStorage
        Where the task's models are stored.
    pathspec, attempt, may_retry
        As for `enter_task`.
    """
    enter_task(pathspec, attempt, may_retry=may_retry)
    if attempt > 0:
        access = DatastoreAccess(backend)
        log_removed(lambda: remove_unfinished(access, pathspec, attempt))
