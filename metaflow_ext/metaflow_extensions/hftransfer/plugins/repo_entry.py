"""Which stored copy serves which request. Pure.

Names are those of metaflow-checkpoint, so that each side finds what the other stored.
In the scope ``checkpoint`` a name says nothing about revision and patterns; what we
store therefore carries a record of them in its metadata, and a copy whose record asks
for other files is not taken.

This record is ``metadata["hftransfer"]``: ``revision`` (as asked, null: the default
branch), ``commit`` (what it meant, null if not known), ``allow_patterns`` and
``ignore_patterns`` (lists or null).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .repo_request import RepoRequest

CACHE_SCOPES = ("checkpoint", "flow", "global")
RECORD = "hftransfer"

_DEFAULT_BRANCH = "main"


class _Selection(NamedTuple):
    revision: str
    commit: str | None
    allow: frozenset[str] | None
    ignore: frozenset[str] | None


def entry_name(request: RepoRequest, cache_scope: str) -> str:
    """Return the name under which metaflow-checkpoint looks for what `request` asks for."""
    parts = [request.repo_type, request.repo_id]
    if cache_scope != "checkpoint":
        values = (request.revision, request.ignore_patterns, request.allow_patterns)
        parts += [json.dumps(value) for value in values if value is not None]
    return hashlib.md5("/".join(parts).encode(), usedforsecurity=False).hexdigest()[:10]


def entry_metadata(
    request: RepoRequest, commit: str | None, *, with_arguments: bool
) -> dict[str, Any]:
    """Return the ``metadata`` of a new entry.

    Args:
        request: what was asked for.
        commit: what its revision was resolved to.
        with_arguments: add ``kwargs``, which metaflow-checkpoint stores for ``load=`` only.
    """
    metadata: dict[str, Any] = {
        "repo_id": request.repo_id,
        "registry": "huggingface",
        "repo_type": request.repo_type,
    }
    if with_arguments:
        metadata["kwargs"] = request.arguments
    metadata[RECORD] = {
        "revision": request.revision,
        "commit": commit,
        "allow_patterns": _as_list(request.allow_patterns),
        "ignore_patterns": _as_list(request.ignore_patterns),
    }
    return metadata


def choose_entry(
    entries: Iterable[Mapping[str, Any]], request: RepoRequest, cache_scope: str
) -> dict[str, Any] | None:
    """Return the newest of `entries`, all of the right name, that serves `request`."""
    serving = [dict(entry) for entry in entries if _serves(entry, request, cache_scope)]
    return max(serving, key=lambda entry: str(entry.get("created_on", "")), default=None)


def _serves(entry: Mapping[str, Any], request: RepoRequest, cache_scope: str) -> bool:
    wanted = _selection(request.arguments)
    recorded = _recorded(entry.get("metadata") or {})
    if recorded is None:
        # Stored by metaflow-checkpoint's snapshot_download, which leaves no trace of what
        # it asked for except, in the wider scopes, in the name.
        return cache_scope != "checkpoint" or wanted == _selection({})
    same_files = (recorded.allow, recorded.ignore) == (wanted.allow, wanted.ignore)
    return same_files and wanted.revision in (recorded.revision, recorded.commit)


def _recorded(metadata: Mapping[str, Any]) -> _Selection | None:
    for name in (RECORD, "kwargs"):
        record = metadata.get(name)
        if isinstance(record, Mapping):
            return _selection(record)
    return None


def _selection(arguments: Mapping[str, Any]) -> _Selection:
    allow, ignore = (
        None if patterns is None else frozenset(patterns)
        for patterns in map(_as_list, map(arguments.get, ("allow_patterns", "ignore_patterns")))
    )
    revision = arguments.get("revision") or _DEFAULT_BRANCH
    return _Selection(revision, arguments.get("commit"), allow, ignore)


def _as_list(patterns: Any) -> list[str] | None:
    if patterns is None:
        return None
    return [patterns] if isinstance(patterns, str) else list(patterns)
