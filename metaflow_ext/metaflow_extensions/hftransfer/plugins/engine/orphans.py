"""What a killed attempt of the same task has left of a checkpoint: found, and removed.

The attempt is part of a checkpoint's key, so that a retry never writes over it: files that
are complete and belong to nothing, and multipart uploads, whose parts are stored, too.
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
    """Return the parts of ``task.attempt.name.version``; a name may have dots. None if not such."""
    task, _, rest = text.partition(".")
    attempt, _, rest = rest.partition(".")
    name, _, version = rest.rpartition(".")
    if not (task and name and attempt.isdigit() and version.isdigit()):
        return None
    return KeyName(task, int(attempt), name, int(version))


def earlier(own: KeyName, names: Iterable[str]) -> list[str]:
    """Return those of `names` that earlier attempts of the same task have made, sorted."""
    found = [(text, parse_key_name(text)) for text in set(names)]
    return sorted(
        text
        for text, name in found
        if name is not None and name.task == own.task and name.attempt < own.attempt
    )


def remove_leftovers(access: DatastoreAccess, key: str, large: Iterable[str]) -> list[str]:
    """Remove what earlier attempts left unpublished beside the checkpoint `key`.

    Parameters
    ----------
    access : DatastoreAccess
    key : str
        Relative to the root; the checkpoint that is about to be stored.
    large : iterable of str
        Paths below `key` of what goes up in parts; empty for `key` itself. Some stores tell
        of an upload only who names its object.

    Returns
    -------
    list of str
        The keys below which something was removed.
    """
    folder, _, text = key.rpartition("/")
    own = parse_key_name(text)
    if own is None or own.attempt == 0 or "/checkpoints/artifacts/" not in f"/{folder}/":
        return []
    described = access.names_in(folder.replace("/artifacts/", "/artifact_metadata/", 1))
    twins = [str(own._replace(attempt=attempt)) for attempt in range(own.attempt)]
    removed = []
    for name in earlier(own, [*access.names_in(folder), *access.unfinished_in(folder), *twins]):
        if f"{name}.metadata" in described:
            continue
        exact = [f"{folder}/{name}/{path}".rstrip("/") for path in large] if name in twins else []
        if access.discard(f"{folder}/{name}", exact):
            removed.append(f"{folder}/{name}")
    return removed
