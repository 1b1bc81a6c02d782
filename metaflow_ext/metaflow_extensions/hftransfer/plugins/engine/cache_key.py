"""The names of stored copies, and which of them satisfies which request. Pure.

The names are those of metaflow-checkpoint, so that each side finds what the other stored.
In the scope ``checkpoint`` a name does not contain revision and patterns. Entries that this
extension stores therefore have a record of them in their metadata, and an entry whose
record differs from the request is not used.

The record is ``metadata["hftransfer"]``: ``revision`` (as requested; null for the default
branch), ``commit`` (to which the revision was resolved; null if unknown), ``allow_patterns``
and ``ignore_patterns`` (lists or null).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest

CACHE_SCOPES = ("checkpoint", "flow", "global")
RECORD = "hftransfer"

_DEFAULT_BRANCH = "main"


class _Selection(NamedTuple):
    revision: str
    commit: str | None
    allow: frozenset[str] | None
    ignore: frozenset[str] | None


def entry_name(request: RepoRequest, cache_scope: str) -> str:
    """Return the name under which metaflow-checkpoint looks for the repository of `request`.

    Parameters
    ----------
    request : RepoRequest
    cache_scope : str
        One of `CACHE_SCOPES`; the names of the wider ones contain revision and patterns.
    """
    parts = [request.repo_type, request.repo_id]
    if cache_scope != "checkpoint":
        values = (request.revision, request.ignore_patterns, request.allow_patterns)
        parts += [json.dumps(value) for value in values if value is not None]
    return hashlib.md5("/".join(parts).encode(), usedforsecurity=False).hexdigest()[:10]


def entry_metadata(
    request: RepoRequest, commit: str | None, *, with_arguments: bool
) -> dict[str, Any]:
    """Return the ``metadata`` of a new entry.

    Parameters
    ----------
    request : RepoRequest
    commit : str, optional
        To which the revision was resolved.
    with_arguments : bool
        Add ``kwargs``, which metaflow-checkpoint stores for ``load=`` only.
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
    entries: Iterable[Mapping[str, Any]], request: RepoRequest
) -> dict[str, Any] | None:
    """Return the newest of `entries`, all of the right name, that satisfies `request`."""
    satisfying = [dict(entry) for entry in entries if satisfies(entry, request)]
    return max(satisfying, key=lambda entry: str(entry.get("created_on", "")), default=None)


def satisfies(entry: Mapping[str, Any], request: RepoRequest) -> bool:
    """Return True if `entry`, of the right name, has the files of `request`.

    An entry without a record was stored by metaflow-checkpoint's ``snapshot_download``. Its
    name is ambiguous (in the scope ``checkpoint`` it has neither revision nor patterns, in the
    wider ones a revision looks like a pattern), so it satisfies a request for the whole
    default branch only.
    """
    requested = _selection(request.arguments)
    metadata = entry.get("metadata") or {}
    if metadata.get("repo_id", request.repo_id) != request.repo_id:
        return False
    if metadata.get("repo_type", request.repo_type) != request.repo_type:
        return False
    recorded = _recorded(metadata)
    if recorded is None:
        return requested == _selection({})
    same_files = (recorded.allow, recorded.ignore) == (requested.allow, requested.ignore)
    return same_files and requested.revision in (recorded.revision, recorded.commit)


def has_record(entry: Mapping[str, Any]) -> bool:
    """Return True if it is recorded which files `entry` has."""
    return _recorded(entry.get("metadata") or {}) is not None


def recorded_request(
    metadata: Mapping[str, Any], hub: Mapping[str, Any]
) -> tuple[RepoRequest, str] | None:
    """Return the request for which an entry was made, and its commit; None if not recorded.

    Parameters
    ----------
    metadata : Mapping
        Of the entry.
    hub : Mapping
        Arguments for the access to the Hub, such as ``token``.
    """
    record = metadata.get(RECORD)
    if not isinstance(record, Mapping) or not record.get("commit") or not metadata.get("repo_id"):
        return None
    request = RepoRequest(
        repo_id=str(metadata["repo_id"]),
        repo_type=str(metadata.get("repo_type") or "model"),
        revision=record.get("revision"),
        allow_patterns=record.get("allow_patterns"),
        ignore_patterns=record.get("ignore_patterns"),
        hub=dict(hub),
    )
    return request, str(record["commit"])


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
