"""What a killed attempt of the same task left of a checkpoint: found, and removed.

The attempt is part of a checkpoint's key, so a retry never overwrites it. What remains is
complete files that belong to no checkpoint, and multipart uploads, whose parts are stored
(and billed) as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess


class KeyName(NamedTuple):
    """The last part of a checkpoint's key."""

    task: str
    """A digest of the task's path."""
    attempt: int
    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.task}.{self.attempt}.{self.name}.{self.version}"


def parse_key_name(text: str) -> KeyName | None:
    """Return the parts of ``task.attempt.name.version``, or None if `text` has another form.

    The name may contain dots.
    """
    task, _, rest = text.partition(".")
    attempt, _, rest = rest.partition(".")
    name, _, version = rest.rpartition(".")
    if not (task and name and attempt.isdigit() and version.isdigit()):
        return None
    return KeyName(task, int(attempt), name, int(version))


def of_earlier_attempts(own: KeyName, names: Iterable[str]) -> list[str]:
    """Return those of `names` that earlier attempts of the same task made, sorted."""
    found = [(text, parse_key_name(text)) for text in set(names)]
    return sorted(
        text
        for text, name in found
        if name is not None and name.task == own.task and name.attempt < own.attempt
    )


def remove_orphans(access: DatastoreAccess, key: str, large: Iterable[str]) -> list[str]:
    """Remove what earlier attempts left unpublished beside the checkpoint `key`.

    Parameters
    ----------
    access : DatastoreAccess
    key : str
        Of the checkpoint that is about to be stored, relative to the root.
    large : iterable of str
        Paths below `key` of the files that are uploaded in parts; an empty path for `key`
        itself. Some stores list an unfinished upload only for the exact key of its object.

    Returns
    -------
    list of str
        The keys below which something was removed.
    """
    folder, _, text = key.rpartition("/")
    own = parse_key_name(text)
    if own is None or own.attempt == 0 or "/checkpoints/artifacts/" not in f"/{folder}/":
        return []
    published = access.list_names(folder.replace("/artifacts/", "/artifact_metadata/", 1))
    same_version = [str(own._replace(attempt=attempt)) for attempt in range(own.attempt)]
    candidates = [*access.list_names(folder), *access.list_unfinished(folder), *same_version]
    removed = []
    for name in of_earlier_attempts(own, candidates):
        if f"{name}.metadata" in published:
            continue
        exact = []
        if name in same_version:
            exact = [f"{folder}/{name}/{path}".rstrip("/") for path in large]
        if access.delete_tree(f"{folder}/{name}", exact):
            removed.append(f"{folder}/{name}")
    return removed
